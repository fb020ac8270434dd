"""The list of everything that is wrong with a recipe, and the did-you-mean of its keys."""

from __future__ import annotations

from lorakit.errors import Problem, RecipeError, nearest
from lorakit.recipe.keys import recipe_keys, section_keys

MOST = 50  # mistakes that are told; a file with more is no recipe


class Problems(list[Problem]):
    """Mistakes in the order they were found. Nothing is raised before all of them are known, or ``MOST`` of them."""

    def add(self, what: str, *, where: str = "", key: str = "", valid: str = "", hint: str = "") -> None:
        """Remember one mistake; a mistake that is already known (a file that two others extend) is told once."""
        problem = Problem(what, where, key, valid, hint)
        if len(self) == MOST:
            self.append(Problem(f"there are more mistakes than these {MOST}", where))
        elif len(self) < MOST and problem not in self:
            self.append(problem)

    def unknown_key(self, path: str, where: str) -> None:
        """Remember that no key or section is called ``path``, with the nearest one in any section."""
        section, _, name = path.rpartition(".")
        if len(self) > MOST:
            return
        if section in section_keys():
            valid = ", ".join(section_keys()[section])
            what = f"section '{section}' has no key '{name}'"
        else:
            valid = "sections " + ", ".join(section_keys()) + "; and extends"
            what = f"there is no section or key '{path}'" if section else f"there is no section '{path}'"
        self.add(what, where=where, key=path, valid=valid, hint=suggest_key(path))

    def raise_if_any(self) -> None:
        """Raises RecipeError with all of them, where there is one."""
        if self:
            raise RecipeError(self)


def suggest_key(path: str) -> str:
    """The key that ``path`` was meant to be: one of this section, another tool's name for it, or a key of another section."""
    section, _, name = path.rpartition(".")
    name = name.lower().replace("-", "_")
    keys = recipe_keys()
    if ":" in name and name.partition(":")[0] in section_keys().get(section, ()):
        return spaced(name)
    if path in keys:
        return nested(path)
    if section and section not in section_keys():
        return nearest(path, [*keys, *section_keys()])
    if not section and nearest(name, [*section_keys(), "extends"]):
        return nearest(name, [*section_keys(), "extends"])
    named = [key.path for key in keys.values() if name == key.name or name in key.rule.also]
    if section:
        own = [other for other in named if other.startswith(f"{section}.")]
        if own:
            return f"did you mean '{own[0].split('.')[1]}'?"
        close = nearest(name, section_keys()[section])
        if close:
            return close
    if named:
        return "did you mean " + " or ".join(f"'{other}'" for other in named) + "?"
    return "" if section else nearest(name, [*section_keys(), *{key.name for key in keys.values()}])


def spaced(text: str) -> str:
    """How ``beta:0.9`` is meant: YAML takes a colon without a space for a part of the word."""
    name, _, value = text.partition(":")
    return f"'{name}: {value}', with a space behind the colon"


def nested(path: str) -> str:
    """How a dotted path is written in YAML."""
    section, name = path.split(".")
    return f"'{name}:' on a line of its own, indented below '{section}:'"
