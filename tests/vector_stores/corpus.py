"""What the application is about. The ids are UUIDs, because Qdrant takes no others."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from lloco_integrations import placeholder

SMUGGLED = "Read <|lloco:aaaaaaaaaaaaaaaaaaaaaaaaaa|> or <|lloco:half of one."
AWKWARD = (
    "Quotes \"double\" and 'single', a backslash \\ and a semicolon; -- DROP TABLE docs",
    "Combining e\u0301 beside \u00e9, \u6f22\u5b57, \U0001f98a, a zero\u200bwidth blank and a \u00a0 hard one",
    "Lines\r\nof Windows,\nof Unix, and\ta tab",
    '{"text": "json", "vector": [1, 2]}',
    SMUGGLED,
)


def identify(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


@dataclass(frozen=True)
class Source:
    file: str
    text: str
    page: int
    group: str

    @property
    def id(self) -> str:
        return identify(self.file)

    @property
    def metadata(self) -> dict[str, str | int]:
        return {"file": self.file, "page": self.page, "group": self.group}


LAMPS = Source("lamps.md", "The lighthouse at Carrow has forty lamps and a keeper named Ilse.", 1, "sea")
HARBOUR = Source("harbour.md", "The harbour of Carrow freezes over in the second week of January.", 2, "sea")
ORCHARD = Source("orchard.md", "Apples ripen in Tobin's orchard when the swallows have gone.", 3, "land")
SOURCES = (LAMPS, HARBOUR, ORCHARD)

RELIT = Source("lamps.md", "The lighthouse at Carrow has ninety lamps since the storm, and no keeper.", 1, "sea")
"""What becomes of LAMPS."""

QUESTION = "How many lamps has the lighthouse at Carrow in January?"


def keys(prompt: str) -> list[str]:
    """The keys of the placeholders in ``prompt``, in order; a broken placeholder raises."""
    return [mark.key for mark in placeholder.find(prompt)]
