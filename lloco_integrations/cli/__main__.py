"""``python -m lloco_integrations.cli``: the same as ``lloco``."""

from lloco_integrations.cli import main

main()
