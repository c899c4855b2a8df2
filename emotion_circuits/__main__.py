"""``python -m emotion_circuits``."""

from emotion_circuits.cli import main

main()
