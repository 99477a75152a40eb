"""What requests may say and what responses hold: the OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

QUESTION_CHARS = 4000  # of a question, a query, a choice or an answer
MAX_K = 50  # chunks
ANSWER_TOKENS = 512  # written for one request
PROMPTS = 128  # of one completion request
CHOICES = 64
QUESTIONS = 200  # of one evaluate request
MODELS = 16  # of one evaluate request
STOPS = 8
STOP_CHARS = 200

Text = Annotated[
    str,
    # not empty, no NUL: neither prompts nor Arrow columns hold one
    Field(min_length=1, max_length=QUESTION_CHARS, pattern=r"^[^\x00]*[^\s\x00-\x1f][^\x00]*$"),
]
Name = Annotated[str, Field(max_length=200)]
Ensemble = Literal["answers", "tokens", "concat"]
K = Annotated[int, Field(ge=1, le=MAX_K)]


class Strict(BaseModel):
    """A request: nothing is converted, nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Question(Strict):
    """A question to a variant of the run."""

    question: Text = Field(examples=["who is the mayor of Arden?"])
    model: Name = Field("", description="a variant that is loaded; the first one by default")
    k: K | None = Field(None, description="chunks; the variant's own number by default")


class RetrieveRequest(Question):
    """What a question finds."""


class AnswerRequest(Question):
    """A question to be answered."""

    ensemble: Ensemble | None = Field(None, description="the variant's own by default")
    probabilities: bool = Field(True, description="also what each chunk says; one pass more")


class ScoreRequest(Question):
    """Answers to choose from."""

    choices: list[Text] = Field(min_length=1, max_length=CHOICES)
    ensemble: Ensemble | None = None
    scoring: Literal["nll", "nll_token", "nll_char", "nll_compl"] = Field(
        "nll", description="as it is, by its tokens, by its characters, or against a bare prompt"
    )
    template: Literal["qa", "mmlu"] = Field(
        "qa", description="each choice as an answer, or the choices listed and their letters scored"
    )


class ExampleRow(Strict):
    """A question with its right answers."""

    question: Text
    answers: list[Text] = Field(min_length=1, max_length=CHOICES)
    choices: list[Text] = Field(default=[], max_length=CHOICES)
    group: Name = Field("", description="questions of one group are resampled together")


class EvaluateRequest(Strict):
    """Questions to measure variants with: a sample of a task, or some of your own."""

    task: Name = Field("", description="one of GET /v1/tasks")
    limit: int = Field(50, ge=1, le=QUESTIONS, description="questions of the task, a seeded choice")
    examples: list[ExampleRow] = Field(default=[], max_length=QUESTIONS)
    models: list[Name] = Field(default=[], max_length=MODELS, description="all by default")


class Chunk(BaseModel):
    """A chunk that was found."""

    id: str
    title: str
    text: str
    score: float
    p_r: float = Field(description="softmax of score / T_R over the chunks found")


class AnsweredChunk(Chunk):
    """A chunk, and what it says by itself."""

    answer: str | None = Field(description="what it alone would have answered")
    probability: float | None = Field(description="of that answer, by this chunk alone")
    answer_probability: float | None = Field(description="of the answer given, by this chunk")


class Timings(BaseModel):
    """Milliseconds, waiting included."""

    retrieve_ms: float
    answer_ms: float
    total_ms: float


class Retrieved(BaseModel):
    """Chunks, best first."""

    model: str
    question: str
    k: int
    t_r: float
    index_version: str = Field(description="of the index the chunks come from")
    chunks: list[Chunk]
    timings: Timings


class Candidate(BaseModel):
    """An answer that was weighed."""

    answer: str
    logprob: float = Field(description="in the mixture, in nats; 0 where there is only one")


class Answer(BaseModel):
    """An answer and why."""

    model: str
    question: str
    k: int
    ensemble: str
    answer: str
    probability: float | None = Field(description="sum of p_r * answer_probability")
    chunks: list[AnsweredChunk]
    candidates: list[Candidate]
    timings: Timings


class ScoredChoice(BaseModel):
    """One choice."""

    choice: str
    score: float = Field(description="higher is better; nats with scoring nll")
    share: float = Field(description="softmax of the scores")


class Scores(BaseModel):
    """The choices in the order given."""

    model: str
    question: str
    k: int
    ensemble: str
    scoring: str
    answer: str
    choices: list[ScoredChoice]
    chunks: list[AnsweredChunk]
    timings: Timings


class Fields(BaseModel):
    """An error."""

    message: str = Field(description="what was wrong, what is expected, what to change")
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every response of 4xx and 5xx."""

    error: Fields


Ids = list[Annotated[int, Field(ge=0, lt=2**31)]]
Stop = Annotated[str, Field(max_length=STOP_CHARS)]
# fields of OpenAI's that cannot be had, with the values that ask for nothing
NoObject = Annotated[dict[str, Any], Field(max_length=0)]
NoList = Annotated[list[Any], Field(max_length=0)]


class Retrieval(Strict):
    """Fields beyond OpenAI's: `extra_body` of its client."""

    query: Text | None = Field(None, description="what is searched for, else the last question")
    k: K | None = None
    ensemble: Ensemble | None = None


class OpenAIRequest(Retrieval):
    """What completions and chat share. Decoding is greedy, so there is one answer and no chance:
    fields that ask for anything else are refused, those that change nothing are accepted.
    """

    model: Name
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: NoObject | None = None
    seed: int | None = None
    user: Name | None = None


class CompletionRequest(OpenAIRequest):
    """POST /v1/completions."""

    prompt: str | list[str] | Ids | list[Ids] = Field(examples=["Q: who wrote Emma?\nA:"])
    max_tokens: Annotated[int, Field(ge=0, le=ANSWER_TOKENS)] | None = 16
    echo: bool | None = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Literal[""] | None = None


class Part(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: Name | None = None


class TextFormat(Strict):
    """The one format of answers."""

    type: Literal["text"]


class ChatRequest(OpenAIRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=PROMPTS)
    max_tokens: Annotated[int, Field(ge=1, le=ANSWER_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=ANSWER_TOKENS)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    response_format: TextFormat | None = None
    tools: NoList | None = None
    tool_choice: Literal["none"] | None = None
    store: Literal[False] | None = None
