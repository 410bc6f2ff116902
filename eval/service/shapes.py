"""What is asked and answered, as the OpenAPI document describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Of = Annotated[Literal["pictures", "captions"], Field(description="what the index is of")]


class Problem(BaseModel):
    """What is wrong with a request."""

    detail: Annotated[str, Field(description="one sentence")]


class Alike(BaseModel):
    """A picture of the index that is near-identical to a match."""

    score: Annotated[float, Field(description="cosine")]
    key: str
    captions: Annotated[dict[str, str], Field(description="by language")]
    image: Annotated[str, Field(description='the small picture as a data: URI, "" where none was kept')]


class Match(Alike):
    """A picture of the index."""

    folded: Annotated[int, Field(description="near-identical pictures that were folded into it")] = 0
    alike: Annotated[list[Alike], Field(description="the best of these, at most 24")] = []


class Matches(BaseModel):
    """The answer to a question."""

    matches: Annotated[list[Match], Field(description="best first")]
    seconds: Annotated[float, Field(description="from the parsed request to the answer")]
    pictures: Annotated[int, Field(description="in the index, or captions where it is of these")]
    of: Of


class Column(BaseModel):
    """What a filter may name."""

    name: str
    type: Annotated[str, Field(description='text, integer, number, boolean, or "list of" one of these')]
    values: Annotated[list[str], Field(description="some, as a filter has them")]


class Columns(BaseModel):
    """What the pictures of the index can be filtered by."""

    columns: list[Column]


class Health(BaseModel):
    """What the service answers from."""

    status: Literal["ok"]
    pictures: Annotated[int, Field(description="in the index, or captions where it is of these")]
    of: Of
    model: Annotated[str, Field(description="first 12 characters of the id of the model's weights")]
    swaps: Annotated[int, Field(description="new versions of the index since the start")]
    recall: Annotated[float | None, Field(description="recall@10 of kept queries; null where it was not measured")]
    recall_built: Annotated[float | None, Field(description="the same when the index was built")]
    recall_fallen: Annotated[bool, Field(description="whether `vlp index compact` should train the index anew")]


class Knn(BaseModel):
    """What clip-retrieval's client sends. Fields that are not listed here are accepted and change nothing."""

    model_config = ConfigDict(extra="ignore")
    text: str | None = None
    image: Annotated[str | None, Field(description="base64")] = None
    image_url: str | None = None
    embedding_input: Annotated[list[float] | None, Field(max_length=65_536)] = None
    deduplicate: Annotated[bool, Field(description="whether near-identical pictures are folded into one")] = False
    where: Annotated[str, Field(description="what the matches fulfil; clip-retrieval has no such field")] = ""
    modality: Literal["image", "text"] = "image"
    num_images: Annotated[int, Field(ge=1)] = 100


class KnnMatch(BaseModel):
    """A match as clip-retrieval's client reads it."""

    id: Annotated[str, Field(description="the picture's key")]
    similarity: float
    url: Annotated[str, Field(description='of the picture, "" where its metadata names none')]
    caption: str
    image: Annotated[str, Field(description="the small picture in base64")]
