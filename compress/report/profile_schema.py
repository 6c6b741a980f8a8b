"""Where a model's time goes, operator by operator, as the runtime's own profiler saw it."""

from __future__ import annotations

from pydantic import Field

from compress.report.record import Interval, Record

#: Of a node that only turns numbers into integers or back, which no fp32 model would have.
CONVERSION = "int8 conversion"


class ProfiledNode(Record):
    """One node of the graph that the runtime made of the file.

    Attributes:
        name: as the runtime has it; a fused node bears the name of one of those that it is made of.
        operator: its type, such as "MatMul" or the runtime's own "QLinearConv".
        precision: what it computes in: "fp32", "fp16", "int8 (static)", "int8 (dynamic)",
            "int4 weights", "int8" for what only moves such numbers, "int8 conversion", "integers"
            for shapes and indices, "control flow" for what runs other nodes.
        provider: of onnxruntime, such as "CPUExecutionProvider".
        shapes: type and shape of each input as far as the profiler tells them; prepacked weights
            are missing.
        inside: name of the Loop, Scan or If that it stands in; None outside of them.
        runs: how often one call of the model runs it.
        us: time of all these runs together, in microseconds; without that of nodes inside of it,
            and without the profiler's own cost.
        share: of all kernel time, 0 to 1.
    """

    name: str
    operator: str
    precision: str
    provider: str
    shapes: list[str]
    inside: str | None = None
    runs: float
    us: float = Field(ge=0)
    share: float = Field(ge=0, le=1)


class ProfiledOperator(Record):
    """All nodes of one type.

    Attributes:
        nodes: how many there are; what stands in the body of a loop counts once.
        runs: how often one call of the model runs any of them.
        us: their time in one call of the model, in microseconds.
        share: of all kernel time, 0 to 1.
        share_range: the lowest and the highest share that a process found.
        workers_us: `us` of every process.
        precisions: how many of the nodes compute in which precision.
        precisions_us: `us` by precision.
    """

    operator: str
    nodes: int = Field(ge=1)
    runs: float
    us: float = Field(ge=0)
    share: float = Field(ge=0, le=1)
    share_range: Interval
    workers_us: list[float]
    precisions: dict[str, int]
    precisions_us: dict[str, float]


class Profile(Record):
    """One model under the runtime's profiler, and the same calls without it.

    Attributes:
        batch: samples a call.
        length: of made-up inputs; None where the inputs decide.
        threads: intra-op threads of the runtime.
        calls: calls under the profiler in all processes together, those discarded left out.
        kernels_us: time in kernels of one call under the profiler, in microseconds, its own cost
            taken off. Between its entries caches grow cold: still more than without it.
        wall_us: time of a whole call without the profiler, in microseconds.
        profiled_us: time of a whole call under the profiler, nothing taken off.
        cost_us: what was taken off for each run of a node, measured on nodes that do nothing.
        workers_kernels_us, workers_wall_us: both of every process.
        operators: by type, the slowest first.
        nodes: every node, the slowest first.
        int8_nodes: how many compute or move values in int8, conversions not counted.
        int8_share: of all kernel time in these, 0 to 1.
        conversion_share: of all kernel time in turning values into int8 and back, 0 to 1.
    """

    batch: int = Field(ge=1)
    length: int | None = None
    threads: int = Field(ge=1)
    calls: int = Field(ge=1)
    kernels_us: float = Field(ge=0)
    wall_us: float = Field(gt=0)
    profiled_us: float = Field(ge=0)
    cost_us: float = Field(ge=0)
    workers_kernels_us: list[float]
    workers_wall_us: list[float]
    operators: list[ProfiledOperator]
    nodes: list[ProfiledNode]
    int8_nodes: int
    int8_share: float = Field(ge=0, le=1)
    conversion_share: float = Field(ge=0, le=1)

    @property
    def outside_us(self) -> float:
        """A call's time in no kernel; negative where the profiler slowed kernels more."""
        return self.wall_us - self.kernels_us

    def operator(self, kind: str) -> ProfiledOperator | None:
        """The nodes of one type, or None where there are none."""
        return next((entry for entry in self.operators if entry.operator == kind), None)
