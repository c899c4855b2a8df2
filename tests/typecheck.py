"""What the test run checks annotations with: beartype, which takes an int where a float is meant, as Python does."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
