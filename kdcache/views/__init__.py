"""Replayable views: (seed, view, index) -> pixels, one recipe a file."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from kdcache.errors import StoreError, UsageError, unknown_name
from kdcache.tasks import POSE
from kdcache.views.crop_flip import CropFlip, CropParameters
from kdcache.views.pose_affine import PoseAffine, PoseParameters
from kdcache.views.pose_crop import PoseCrop
from kdcache.views.recipe import Recipe, require_seed
from kdcache.views.unaugmented import Unaugmented

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (CropFlip, Unaugmented, PoseAffine, PoseCrop)
}
PersonRecipe = PoseAffine | PoseCrop  # those with `affine`, `joints` and `map_back`


def make_recipe(name: str, *, seed: int = 0, **parameters: Any) -> Recipe:
    """The recipe of that name; parameters that it does not have are dropped.

    Datasets state the parameters that suit their images (size, padding, flip) once for every
    recipe. Raises UsageError for an unknown name.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    known = {field.name for field in fields(RECIPES[name])}
    return RECIPES[name](seed=seed, **{k: v for k, v in parameters.items() if k in known})


def require_task(name: str, task: str) -> None:
    """Raises UsageError for the name of a recipe that is not for a dataset of this task."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if RECIPES[name].of_people != (task == POSE):
        suitable = [known for known in RECIPES if RECIPES[known].of_people == (task == POSE)]
        whole = "images of one size, this dataset is of people in whole photographs"
        if task != POSE:
            whole = "people in whole photographs, this dataset is of images of one size"
        raise UsageError(f"recipe {name!r} is for {whole}; take --recipe {' or '.join(suitable)}")


def with_options(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """The recipe with some of its parameters replaced. Raises UsageError for one it lacks."""
    known = [field.name for field in fields(recipe) if field.name != "seed"]
    for name in options:
        if not known:
            raise UsageError(f"recipe {recipe.name!r} has no parameters, got {name}")
        if name not in known:
            raise unknown_name(f"parameter of recipe {recipe.name!r}:", name, known)
    return replace(recipe, **options)


def recipe_from_description(description: dict[str, Any], seed: int) -> Recipe:
    """The recipe a manifest describes.

    Raises StoreError when this version of kdcache does not make exactly the described views,
    UsageError for a seed that no recipe takes.
    """
    require_seed(seed)  # it may be the caller's own, and is not what the manifest describes
    name = description.get("name")
    parameters = {k: v for k, v in description.items() if k not in ("name", "version", "exact")}
    if isinstance(name, str) and name in RECIPES:
        try:
            recipe = RECIPES[name](seed=seed, **parameters)
        except (TypeError, ValueError):
            recipe = None
        if recipe is not None and recipe.describe() == description:
            return recipe
    raise StoreError(
        f"the store's views were made by the recipe {str(description)[:1000]}, which this version "
        f"of kdcache cannot replay (it knows {_known_recipes()}); use the version that wrote it, "
        "which `kdcache inspect` names"
    )


def _known_recipes() -> str:
    return ", ".join(f"{name} version {RECIPES[name].version}" for name in sorted(RECIPES))


__all__ = [
    "RECIPES",
    "CropFlip",
    "CropParameters",
    "PersonRecipe",
    "PoseAffine",
    "PoseCrop",
    "PoseParameters",
    "Recipe",
    "Unaugmented",
    "make_recipe",
    "recipe_from_description",
    "require_task",
    "with_options",
]
