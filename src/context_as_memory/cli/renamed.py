"""Words of earlier versions. For one version they are answered with their new name."""

from collections.abc import Sequence

from context_as_memory.errors import UserError

COMMANDS = {
    "evaluate-returns": "evaluate --suite returns",
    "train world": "train denoiser",
}
FLAGS = {
    "--memory": "--strategy",
    "--literal": "--as-published",
    "--no-literal": "--no-as-published",
    "--kept-worlds": "--stored-worlds",
}
RECIPES = {
    "steady": "light-stage2",
    "swift": "base-2step",
}


def check(words: Sequence[str]) -> None:
    """Raise `UserError` with the new name for the first former word of a command line, the words after `cam`."""
    for old, new in COMMANDS.items():
        if " ".join(words[: len(old.split())]) == old:
            raise UserError(f"`cam {old}` is called `cam {new}` now.")
    for word in words:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag in FLAGS:
            raise UserError(f"`{flag}` is called `{FLAGS[flag]}` now.")
    if words[:1] == ["train"]:
        for before, word in zip(("", *words), words, strict=False):
            name = word.removeprefix("--recipe=")
            if name in RECIPES and (before == "--recipe" or word != name):
                raise UserError(f"the recipe `{name}` is called `{RECIPES[name]}` now.")
