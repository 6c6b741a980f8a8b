"""A recipe: a task, a model, a budget, and stages that form a tree. Free of torch.

    task: mnist
    model: cnn
    budget: {max_drop: 0.005, minimise: latency}
    stages:
      - train: {epochs: 15}
      - quantize: {method: best}

A stage is one entry of `stages`: its kind, and under it `name` (the kind, where left out), `from`
(the stage before, where left out) and the settings of its technique. All errors are found at once.
"""

from compress.recipe.parse import load_recipe, parse_recipe
from compress.recipe.schema import BudgetConfig, Recipe, Stage
from compress.recipe.settings import check_settings

__all__ = ["BudgetConfig", "Recipe", "Stage", "check_settings", "load_recipe", "parse_recipe"]
