"""Where summary embeddings live, keyed by content. Importing it imports no torch."""

from __future__ import annotations

from lloco_integrations.store.copying import CopyReport
from lloco_integrations.store.info import Damage, EntryInfo, StoreStats, Totals
from lloco_integrations.store.store import SummaryStore

__all__ = ["CopyReport", "Damage", "EntryInfo", "StoreStats", "SummaryStore", "Totals"]
