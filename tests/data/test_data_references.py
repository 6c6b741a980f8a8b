"""What a data reference names, and what is said of one that names nothing."""

from __future__ import annotations

import pytest
import tiny
import torch

from compress.data import references
from compress.data.references import check_task, load_task
from compress.errors import InputError, UnknownName


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(
        UnknownName, match=r"No task named 'mnits'\. Known: co2, .*mnist, .*Did you mean 'mnist'\?"
    ):
        load_task("mnits")


def test_known_names_pass():
    for name in references.TASKS:
        check_task(name)
    check_task("some.module:factory")


def test_factory_gives_the_task():
    task = load_task("tiny:task")
    assert task.name == "tiny:task"
    assert torch.equal(task.train.inputs, tiny.task().train.inputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:task", "data 'no_such_module:task': ModuleNotFoundError: No module named"),
        ("tiny:tasks", "data 'tiny:tasks': AttributeError: module 'tiny' has no attribute 'tasks'"),
        ("tiny:label_loss", "data 'tiny:label_loss': TypeError: label_loss"),
        ("tiny:model", "data 'tiny:model' gave a Sequential; expected a Task."),
    ],
)
def test_factory_that_does_not_give_a_task(name, message):
    with pytest.raises(InputError) as caught:
        load_task(name)
    assert str(caught.value).startswith(message)
