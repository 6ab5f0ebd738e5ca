"""The typed configuration of all jobs, with the meaning and unit of every key.

Other packages import only from here. `read_project` reads a project file, and `load_config` reads
the config of one job in it.
"""

from xrec.config.annotate import (
    REVIEW_COLUMNS,
    AnnotateConfig,
    LanguageModelAnnotator,
    PhrasesAnnotator,
    ReviewsSource,
    VocabularyConfig,
)
from xrec.config.backfill import (
    GATE,
    BackfillConfig,
    BulkConfig,
    ExplanationsJobConfig,
    PricesConfig,
    RecommendConfig,
    RecommendedPairs,
    SplitPairs,
    TablePairs,
)
from xrec.config.base import (
    SHARED_DISKS,
    Config,
    Key,
    absolute,
    keys_of,
    merged,
    parse_config,
    resolved_yaml,
    sections_of,
)
from xrec.config.data import (
    TABLE_COLUMNS,
    TABLE_ENDINGS,
    AnnotationsSource,
    BuildSampleLLMConfig,
    Delimiter,
    PrepareConfig,
    ReleaseSource,
    SampleSource,
    SplitShares,
    TablesSource,
)
from xrec.config.identity import (
    CHANGES_NOTHING,
    CHOOSES_ROWS,
    identity_of,
    identity_of_texts,
    settings_of_texts,
)
from xrec.config.job import (
    WORKSPACE,
    ArtifactName,
    Device,
    JobConfig,
    Processes,
    RayConfig,
    RayJobConfig,
    Split,
    StorageConfig,
    Workers,
)
from xrec.config.keys import (
    CONFIG_TYPES,
    SHARED,
    job_keys,
    meaning,
    own_and_shared,
    type_and_default,
)
from xrec.config.lab import (
    ADAPTERS,
    BASELINES,
    RANKERS,
    WITHOUT_ASPECTS,
    BaselineKind,
    CompareConfig,
    ElsewhereConfig,
    EvaluateConfig,
    MetricsConfig,
)
from xrec.config.llm import (
    HUB_ID,
    Attention,
    Dtype,
    EndpointConfig,
    EndpointModelConfig,
    EngineConfig,
    EngineModelConfig,
    LanguageModelConfig,
    LLMConfig,
    PromptFailure,
    Quantization,
    ReplyFailureReason,
    SamplingConfig,
)
from xrec.config.project import Project, load_config, read_project, storage_of
from xrec.config.serve import HTTPConfig, KeyConfig, Scope, ServeConfig, is_loopback, share_of_key
from xrec.config.texts import (
    PLAIN,
    CheckFailure,
    ChecksConfig,
    DecodingConfig,
    PeopleWords,
    PlainTemplates,
    PromptConfig,
    TextConfig,
    TextFailure,
    parse_placeholders,
    placeholder_names,
)
from xrec.config.train import (
    AdapterModelConfig,
    AdapterTrainingConfig,
    GraphLoss,
    GraphModelConfig,
    GraphTrainingConfig,
    Injection,
    NeighborsConfig,
    PretrainGraphConfig,
    TrainAdapterConfig,
)
from xrec.config.values import parse_yaml
