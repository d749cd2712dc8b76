"""How a candidate is shown to the language model: one template a task (arXiv 2310.07554, appendix A)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quadrieve.errors import InputError

from ..lm import Prompt

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    r"""A prompt with a candidate in it, the same prompt without one, and how an output follows it.

    Fields in braces are replaced once: braces within a query or candidate stay what they are.

    Attributes:
        prompt: Has `{candidate}` and `{query}`, and may have `{context}`.
        bare: The prompt without a candidate; has `{query}`.
        output: Has `{output}`; usually a space before it.

    Raises:
        InputError: If a field is missing or unknown.

    Example:
        >>> template = Template("{candidate}\n{query} =", "{query} =", " {output}")
        >>> template.fill("2 + 2", "1 + 1 = 2").text
        '1 + 1 = 2\n2 + 2 ='
    """

    prompt: str
    bare: str
    output: str = " {output}"

    def __post_init__(self) -> None:
        known = {"candidate", "query", "context"}
        for text, needed in ((self.prompt, {"candidate", "query"}), (self.bare, {"query"}), (self.output, {"output"})):
            fields = set(_FIELD.findall(text))
            if not needed <= fields or fields - known - needed or text.count("{candidate}") > 1:
                raise InputError(
                    f"The template {text!r} must have {', '.join(sorted(needed))} in braces (the candidate once) "
                    f"and no field but {', '.join(sorted(known | needed))}."
                )

    def fill(self, query: str, candidate: str | None = None, context: str = "") -> Prompt:
        """The prompt for a query, with a candidate or, for None, without."""
        fields = {"query": query, "context": context}
        if candidate is None:
            return Prompt("", after=_replace(self.bare, fields))
        before, after = self.prompt.split("{candidate}")
        return Prompt(_replace(before, fields), candidate, _replace(after, fields))

    def follow(self, output: str) -> str:
        """An output as it stands behind the prompt."""
        return _replace(self.output, {"output": output})


def _replace(text: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), text)


#: One template a task; a recipe or a caller may bring another.
TEMPLATES: dict[str, Template] = {
    "qa": Template("Knowledge:\n{candidate}\n\nQ: {query} A:", "Q: {query} A:"),
    "convsearch": Template("Knowledge:\n{candidate}\n\nQ: {query} A:", "Q: {query} A:"),
    "chat": Template("{candidate}\nSpeaker 1: {query}\nSpeaker 2:", "Speaker 1: {query}\nSpeaker 2:"),
    "lrlm": Template("{candidate}{context}{query}", "{context}{query}", "{output}"),
    "icl": Template("{candidate}\n{query}\n", "{query}\n", "{output}"),
    "tool": Template("Tool: {candidate}\n\nRequest: {query}\nCall:", "Request: {query}\nCall:"),
}


def template_for(task: str, overrides: Mapping[str, Template] | None = None) -> Template:
    """The template of a task.

    Raises:
        InputError: If the task has none.
    """
    found = (overrides or {}).get(task) or TEMPLATES.get(task)
    if found is None:
        raise InputError(f"The task {task!r} has no reward template; pass templates={{{task!r}: Template(…)}}.")
    return found
