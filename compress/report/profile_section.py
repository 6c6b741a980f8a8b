"""The section "where the time goes": which profiles a page shows, and how the HTML page does."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from compress.report import profile_tables as tables
from compress.report.profile_picture import Bar, bar_picture, bars, legend
from compress.report.schema import Arm, Report
from compress.report.tables import Table


@dataclass(frozen=True)
class ShownProfile:
    """One arm's picture and tables."""

    name: str
    roles: list[str]
    bars: list[tuple[Bar, Markup]]
    sentences: list[str]
    operators: Table
    nodes: Table
    int8: Table


@dataclass(frozen=True)
class ProfileSection:
    """The whole section; no profiles where the report has none."""

    profiles: list[ShownProfile]
    legend: list[tuple[Markup, str]]
    differences: list[tuple[tables.Pair, Table]]


def profile_section(report: Report) -> ProfileSection:
    """What the page shows of all profiles."""
    pairs = tables.compared(report)
    profiled = shown_arms(report)
    every = [bar for arm in profiled if arm.profile for bar in bars(arm.profile)]
    shown = [
        ShownProfile(
            name=arm.name,
            roles=[
                role
                for role, name in (("baseline", report.baseline), ("final", report.final))
                if name == arm.name and len(profiled) > 1
            ],
            bars=_pictures(bars(arm.profile)),
            sentences=tables.sentences(arm.profile),
            operators=tables.operators_table(arm.profile),
            nodes=tables.nodes_table(arm.profile),
            int8=tables.int8_table(arm.profile),
        )
        for arm in profiled
        if arm.profile
    ]
    return ProfileSection(
        shown, legend(every), [(pair, tables.difference_table(pair)) for pair in pairs]
    )


def shown_arms(report: Report) -> list[Arm]:
    """Of the arms with a profile the baseline and the final model, or all without a final one."""
    profiled = [arm for arm in report.arms if arm.profile is not None]
    if report.final is not None and tables.compared(report):
        return [arm for arm in profiled if arm.name in (report.baseline, report.final)]
    return profiled


def _pictures(shown: list[Bar]) -> list[tuple[Bar, Markup]]:
    longest = max((bar.length for bar in shown), default=0.0)
    return [(bar, bar_picture(bar, longest)) for bar in shown]
