"""The schema of an experiment: what `pocket.yaml` and `paper.yaml` may say.

Unknown keys, wrong types and impossible combinations are refused with the field's name.
Paths in an experiment are relative to the folder in which the command is run. `tasks` may be
the name of another experiment's file, relative to the first, whose tasks are taken.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _as_epoch(value: Any) -> Any:
    """Read an epoch given as a number or as a fraction such as `10/3`."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is a truth value; give epochs such as 3 or 10/3")
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{value!r} is not a number of epochs such as 3 or 10/3") from error
    return value


Epoch = Annotated[float, BeforeValidator(_as_epoch), Field(gt=0.0)]


class Strict(BaseModel):
    """A part of an experiment: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would read true, which YAML also writes yes and on, as the number 1.
        assert info.field_name is not None  # only a validator of a whole model has none
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is a truth value; give what the field holds")
        return value


class World(Strict):
    """The embedded data: a small world from which a corpus and tasks are generated.

    `path: world` in a source refers to it. See `pretrain.text.world` for what is generated.
    `train` and `evaluation` count the instances of the inference task, `hans` those of its
    two-class evaluation set, and the last two those of the habitat task.
    """

    seed: int = 0
    kinds: Annotated[int, Field(ge=4, le=40)] = 8
    members: Annotated[int, Field(ge=2, le=40)] = 10
    documents: PositiveInt = 6000
    train: PositiveInt = 3200
    evaluation: PositiveInt = 2000
    wrong_labels: Share = 0.04
    hans: PositiveInt = 600
    habitat_train: PositiveInt = 560
    habitat_evaluation: PositiveInt = 140


class Source(Strict):
    """Rows that `datasets.load_dataset` can read, from the hub or from local files.

    `path` is a hub name, a builder for local files (`json`, `csv`, `parquet`, `text`), or
    `world` for the embedded data (`name`: `corpus`, `inference`, `hans` or `habitat`).

    Of `csv` files, `delimiter` separates the columns; with `quoting: none` quotation marks are
    text like any other; `columns` names the columns of files without a heading. `origin` says
    where a file can be had, for whoever does not have it.
    """

    path: str
    name: str | None = None
    data_files: str | list[str] | None = None
    field: str | None = None
    split: str = "train"
    revision: str | None = None
    delimiter: Annotated[str, Field(min_length=1)] | None = None
    quoting: Literal["minimal", "none"] | None = None
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    origin: str | None = None

    @model_validator(mode="after")
    def _local_builders_need_files(self) -> Self:
        if self.path in ("json", "csv", "parquet", "text") and not self.data_files:
            raise ValueError(f"data_files: the builder {self.path!r} needs the files to read")
        if self.field is not None and self.path != "json":
            raise ValueError("field: only the json builder reads one field of a file")
        for option in ("delimiter", "quoting", "columns"):
            if getattr(self, option) is not None and self.path != "csv":
                raise ValueError(f"{option}: only the csv builder has it")
        return self


class Text(Source):
    """Text to pretrain on: a source, and how its rows make documents of sentences.

    `text` names the columns of a row that hold text, in order. Every line of them is a
    sentence (`sentences: lines`), or lines are also split after `.`, `!` and `?`
    (`sentences: punctuation`). So many rows one after another make a document
    (`rows_per_document`): 1 where a row is an article, more where a row is one sentence of a
    book.
    """

    text: Annotated[list[str], Field(min_length=1)] = ["text"]
    sentences: Literal["lines", "punctuation"] = "punctuation"
    rows_per_document: PositiveInt = 1


class Corpus(Strict):
    """The text to pretrain on: several sources one after another."""

    sources: Annotated[list[Text], Field(min_length=1)]


class Vocabulary(Strict):
    """The WordPiece vocabulary: trained on the corpus (`size`), or given (`file`).

    It is trained on at most so many `megabytes` of text, spread evenly over the corpus.
    """

    size: Annotated[int, Field(ge=10, le=65536)] | None = None
    file: Path | None = None
    lowercase: bool = True
    megabytes: PositiveInt = 200

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.size is None) == (self.file is None):
            raise ValueError("give either size (to train one) or file (a vocab.txt)")
        return self


class Size(Strict):
    """One size of the BERT architecture."""

    name: Name
    layers: PositiveInt
    hidden: PositiveInt
    heads: PositiveInt
    intermediate: PositiveInt | None = None

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden: {self.hidden} is not divisible by the number of heads, {self.heads}"
            )
        return self

    @property
    def feedforward(self) -> int:
        """Width of the feed-forward layer: `intermediate`, or BERT's four times hidden."""
        return self.intermediate or 4 * self.hidden


def _check_accumulate(parts: int, batch_sizes: list[int]) -> None:
    for batch_size in batch_sizes:
        if batch_size % parts:
            raise ValueError(
                f"accumulate: a batch_size of {batch_size} cannot be cut into {parts} equal parts"
            )


class Optimizer(Strict):
    """BERT's Adam: see `pretrain.engine.optimizer`."""

    beta_1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta_2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    epsilon: PositiveFloat = 1e-6
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    clip_norm: PositiveFloat = 1.0
    bias_correction: bool = False


class Keep(Strict):
    """A stretch of pretraining in which the encoder is kept every so many steps.

    It begins where the one before it ends, and lasts `until` a step, which counts, or to the end.
    """

    every: PositiveInt
    until: PositiveInt | None = None


Precision = Literal["float32", "bfloat16"]


class Divergence(Strict):
    """When a run is given up though its loss is finite.

    It is, once its loss has been above `factor` times the loss of guessing (the logarithm of
    the number of labels, or of vocabulary entries plus that of 2) at every one of `steps`
    steps in a row.
    """

    factor: Annotated[float, Field(gt=1.0)] = 2.0
    steps: PositiveInt = 1000


class Static(Strict):
    """A fixed set of pretraining instances, so many for each position of the corpus."""

    static: PositiveInt


class Pretraining(Strict):
    """Masked-token and next-sentence pretraining of every size with every seed."""

    seeds: Annotated[int, Field(ge=2)]
    steps: PositiveInt
    batch_size: PositiveInt
    sequence_length: Annotated[int, Field(ge=8, le=512)]
    max_masked: PositiveInt
    masked_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    short_share: Share = 0.1
    random_next_share: Share = 0.5
    masks: Literal["fresh"] | Static = "fresh"
    learning_rate: PositiveFloat
    warmup_steps: Annotated[int, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    initializer_range: PositiveFloat = 0.02
    checkpoint_every: PositiveInt
    keep: list[Keep] = []
    optimizer: Optimizer = Optimizer()
    divergence: Divergence = Divergence()
    # Of activations and products; weights, losses and sums over steps are float32.
    precision: Precision = "float32"
    # Parts into which a batch is cut, one after another, to need less memory.
    accumulate: PositiveInt = 1

    @field_validator("seeds")
    @classmethod
    def _even(cls, seeds: int) -> int:
        if seeds % 2:
            raise ValueError(
                f"{seeds} is odd: the random baseline mixes half of each size's seeds, "
                "so give an even number"
            )
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} must be less than steps, {self.steps}"
            )
        _check_accumulate(self.accumulate, [self.batch_size])
        if self.max_masked >= self.sequence_length:
            raise ValueError(
                f"max_masked: {self.max_masked} must be less than sequence_length, "
                f"{self.sequence_length}"
            )
        ends = [stretch.until or self.steps for stretch in self.keep]
        if any(end <= begin for begin, end in pairwise([0, *ends])) or max(ends, default=0) > (
            self.steps
        ):
            raise ValueError(
                f"keep: give stretches in order, each until a later step, none after {self.steps}"
            )
        return self

    @property
    def kept_steps(self) -> list[int]:
        """Steps before the last after which the encoder is kept, in order."""
        found: list[int] = []
        begin = 0
        for stretch in self.keep:
            end = stretch.until or self.steps
            first = (begin // stretch.every + 1) * stretch.every
            found += range(first, end + 1, stretch.every)
            begin = end
        return [step for step in found if step < self.steps]


class Checkpoints(Strict):
    """Encoders that others pretrained, in place of pretraining: see `pretrain.bert.importing`.

    `checkpoints` names one for each size: a folder, or a model of the Hugging Face hub, with
    `{seed}` for the pretraining seed (`first_seed` and so many `seeds` from there on);
    `revision` is the hub's. They bring their own vocabulary. `sequence_length` is the number of
    their positions and `lowercase` what their tokenizer does; a checkpoint that says otherwise
    is refused.

    `gelu` is what the encoder computes. Google's own code, which BERT, Turc et al.'s models and
    the MultiBERTs were pretrained with, has the `tanh` approximation. Converted, they say only
    `gelu`, which `transformers` computes with the error function: `erf` is for checkpoints
    that were pretrained with it.
    """

    checkpoints: Annotated[dict[Name, str], Field(min_length=1)]
    first_seed: Annotated[int, Field(ge=0)] = 1
    seeds: PositiveInt = 1
    sequence_length: Annotated[int, Field(ge=8)] = 512
    lowercase: bool = True
    gelu: Literal["tanh", "erf"] = "tanh"
    revision: str | None = None

    @model_validator(mode="after")
    def _a_checkpoint_for_every_seed(self) -> Self:
        for size, where in self.checkpoints.items():
            if re.search(r"[{}]", where.replace("{seed}", "")) or not where.strip():
                raise ValueError(
                    f"checkpoints.{size}: {where!r} is no folder or hub name; only {{seed}} may "
                    "be in braces"
                )
            if self.seeds > 1 and "{seed}" not in where:
                raise ValueError(
                    f"checkpoints.{size}: {where!r} is one checkpoint for {self.seeds} seeds; "
                    "put {seed} where their names differ"
                )
        return self

    def checkpoint(self, size: str, seed: int) -> str:
        """Folder or hub name of the checkpoint of one size and pretraining seed."""
        return self.checkpoints[size].replace("{seed}", str(seed))


_ORIGINS = ("trained", "imported")


def _origin(value: Any) -> str:
    """Whether `pretraining` names checkpoints or says how to train."""
    named = isinstance(value, Checkpoints) or (isinstance(value, dict) and "checkpoints" in value)
    return _ORIGINS[named]


Encoders = Annotated[
    Annotated[Pretraining, Tag(_ORIGINS[0])] | Annotated[Checkpoints, Tag(_ORIGINS[1])],
    Discriminator(_origin),
]


class Examples(Source):
    """Labelled instances: a source, and which of its columns mean what.

    `label_map` turns the source's label values (written as text) into the task's labels;
    rows whose label it maps to null are left out. Without a `guid` column the guid is
    `<split>-<row>`, where split is the evaluation set's name and row the number in the column
    `row`, or else the place among the rows of the source, from 0.
    """

    text_a: str = "text_a"
    text_b: str | None = "text_b"
    label: str = "label"
    guid: str | None = None
    row: str | None = None
    label_map: dict[str, str | None] | None = None
    metadata: list[str] = []

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.guid is not None and self.row is not None:
            raise ValueError("row: numbers the rows for guids; with a guid column leave it out")
        return self


class Task(Strict):
    """One task: its labels, what it trains on and the sets it predicts.

    With `folds: n`, the training rows (as split `train`) and the evaluation sets are mixed
    and dealt into n folds; each instance is predicted by the classifier that was finetuned
    on the other folds.

    With `remove_duplicates`, an instance whose texts occur more than once among the training
    rows and all evaluation sets together is neither trained on nor predicted.
    """

    name: Name
    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    train: Examples
    evaluation: dict[Name, Examples]
    folds: Annotated[int, Field(ge=2)] | None = None
    remove_duplicates: bool = False

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_text(cls, labels: Any) -> Any:
        if not isinstance(labels, list):
            return labels
        return [str(label) if isinstance(label, int) else label for label in labels]

    @model_validator(mode="after")
    def _something_to_predict(self) -> Self:
        if not self.evaluation:
            raise ValueError("evaluation: name at least one evaluation set")
        if self.folds is not None and "train" in self.evaluation:
            raise ValueError("evaluation.train: with folds, the training rows are already `train`")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: a label is given twice")
        return self


class Search(Strict):
    """Grid search: train on the rest, choose by accuracy on the held-out share."""

    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1)]
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    pretraining_seeds: PositiveInt = 1


class Buffer(Strict):
    """Shuffle through a buffer of this many examples over a fixed file order."""

    buffer: Annotated[int, Field(ge=2)]


class Finetuning(Strict):
    """Finetuning of every pretrained encoder with every finetuning seed, for every task."""

    seeds: PositiveInt
    epochs: PositiveInt
    checkpoints: Annotated[list[Epoch], Field(min_length=1)]
    sequence_length: Annotated[int, Field(ge=8, le=512)]
    batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    search: Search | None = None
    warmup_share: Share = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    initializer_range: PositiveFloat = 0.02
    shuffle: Literal["full"] | Buffer = "full"
    checkpoint_every: PositiveInt = 1000
    optimizer: Optimizer = Optimizer()
    divergence: Divergence = Divergence()
    precision: Precision = "float32"
    accumulate: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sorted(set(self.checkpoints)) != self.checkpoints:
            raise ValueError("checkpoints: give each epoch once, in increasing order")
        if self.checkpoints[-1] > self.epochs:
            raise ValueError(
                f"checkpoints: {self.checkpoints[-1]:g} is after the last epoch, {self.epochs}"
            )
        fixed = self.batch_size is not None and self.learning_rate is not None
        partly = self.batch_size is not None or self.learning_rate is not None
        if self.search is None and not fixed:
            raise ValueError("give batch_size and learning_rate, or search")
        if self.search is not None:
            _check_accumulate(self.accumulate, self.search.batch_sizes)
        elif self.batch_size is not None:
            _check_accumulate(self.accumulate, [self.batch_size])
        if self.search is not None and partly:
            raise ValueError("search: chooses batch_size and learning_rate; leave those out")
        return self


class Prediction(Strict):
    """How class probabilities are kept."""

    probability: Literal["float16", "float32"] = "float32"
    batch_size: PositiveInt = 256


class Experiment(Strict):
    """A whole experiment, from text to predictions.

    `pretraining` says how to pretrain the encoders, or which checkpoints to take; these need
    no corpus, and bring their vocabulary.

    Processes that share the work claim what they do; after `claim_expires` seconds without a
    sign of life from its owner, a claim is another's to take.
    """

    name: Name
    output: Path
    world: World | None = None
    corpus: Corpus | None = None
    vocabulary: Vocabulary | None = None
    sizes: Annotated[list[Size], Field(min_length=1)]
    pretraining: Encoders
    tasks: Annotated[list[Task], Field(min_length=1)]
    finetuning: Finetuning
    prediction: Prediction = Prediction()
    claim_expires: Annotated[float, Field(ge=1.0)] = 600.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, names in (
            ("sizes", [size.name for size in self.sizes]),
            ("tasks", [task.name for task in self.tasks]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field}: the name {twice[0]!r} is given twice")
        self._text_or_checkpoints()
        if self.finetuning.sequence_length > self.pretraining.sequence_length:
            raise ValueError(
                f"finetuning.sequence_length: {self.finetuning.sequence_length} is longer than "
                f"the {self.pretraining.sequence_length} positions of the pretrained encoders"
            )
        if self.world is None and any(source.path == "world" for source in self.sources()):
            raise ValueError("world: a source has path 'world', so describe the world")
        search = self.finetuning.search
        if search is not None and search.pretraining_seeds > self.pretraining.seeds:
            raise ValueError(
                f"finetuning.search.pretraining_seeds: {search.pretraining_seeds} is more than "
                f"pretraining.seeds, {self.pretraining.seeds}"
            )
        return self

    def _text_or_checkpoints(self) -> None:
        for field, given in (("corpus", self.corpus), ("vocabulary", self.vocabulary)):
            if isinstance(self.pretraining, Pretraining) and given is None:
                raise ValueError(f"{field}: missing; pretraining needs it")
            if isinstance(self.pretraining, Checkpoints) and given is not None:
                raise ValueError(
                    f"{field}: nothing is pretrained here, and checkpoints have their own "
                    "vocabulary; leave it out"
                )
        if isinstance(self.pretraining, Checkpoints):
            names, named = {size.name for size in self.sizes}, set(self.pretraining.checkpoints)
            if names - named:
                raise ValueError(
                    f"pretraining.checkpoints: name one for the size {min(names - named)!r}"
                )
            if named - names:
                raise ValueError(
                    f"pretraining.checkpoints.{min(named - names)}: no size has this name"
                )

    def sources(self) -> list[Source]:
        """Every source of rows that the experiment names."""
        found: list[Source] = list(self.corpus.sources) if self.corpus is not None else []
        for task in self.tasks:
            found += [task.train, *task.evaluation.values()]
        return found

    def size(self, name: str) -> Size:
        """Look a size up by its name.

        Raises
        ------
        KeyError
            If the experiment has no such size.
        """
        for size in self.sizes:
            if size.name == name:
                return size
        raise KeyError(name)

    def task(self, name: str) -> Task:
        """Look a task up by its name.

        Raises
        ------
        KeyError
            If the experiment has no such task.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)

    @property
    def recipe(self) -> Pretraining:
        """How the encoders are pretrained, where they are."""
        assert isinstance(self.pretraining, Pretraining), "the encoders come from checkpoints"
        return self.pretraining

    @property
    def lowercase(self) -> bool:
        """Whether the tokenizer lowercases text and strips accents."""
        if isinstance(self.pretraining, Checkpoints):
            return self.pretraining.lowercase
        assert self.vocabulary is not None  # asked for by the schema
        return self.vocabulary.lowercase

    @property
    def gelu(self) -> Literal["tanh", "erf"]:
        """How the encoders compute their activation: BERT's own way unless checkpoints differ."""
        return self.pretraining.gelu if isinstance(self.pretraining, Checkpoints) else "tanh"

    @property
    def pretrain_seeds(self) -> list[int]:
        """Pretraining seeds: 1 to n, or those of the checkpoints."""
        one = self.pretraining
        first = one.first_seed if isinstance(one, Checkpoints) else 1
        return list(range(first, first + one.seeds))

    @property
    def finetune_seeds(self) -> list[int]:
        """Finetuning seeds, 1 to n."""
        return list(range(1, self.finetuning.seeds + 1))

    def as_plain(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data."""
        return self.model_dump(mode="json", exclude={"output", "claim_expires"})
