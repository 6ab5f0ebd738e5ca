"""The prompt of a kind of text: the file that the config names, or our own (xrec.text.prompt_file).

{language} and {max_aspects} of its instruction are filled in. The example of the config's domain is
shown to the model, and the row comes last.
"""

from importlib import resources

from pydantic import BaseModel

from xrec.annotate.language_model.replies import Kind
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError
from xrec.text.prompt_file import PromptFile, parse_prompt_file, read_prompt_file

KINDS: tuple[Kind, ...] = ("item", "user", "pair")


def read_prompt(
    kind: Kind,
    uri: str | None,
    schema: type[BaseModel],
    domain: str,
    storage: StorageConfig | None = None,
) -> PromptFile:
    """The prompt in the file at `uri`; if that is None, our own for this kind of text.

    Raises ConfigError if the file cannot be read, has no example of `domain`, or an example whose
    reply is no object of `schema`.
    """
    if uri is None:
        name = f"{kind}.txt"
        text = (resources.files(__package__) / "prompts" / name).read_text("utf-8")
        prompt = parse_prompt_file(name, text)
    else:
        prompt = read_prompt_file(f"annotator.prompts.{kind}", uri, storage)
    if domain not in prompt.examples:
        raise ConfigError(
            f"{prompt.name}: no example for annotator.domain = {domain}; it has "
            f"{', '.join(prompt.examples) or 'none'}"
        )
    prompt.check(schema)
    return prompt
