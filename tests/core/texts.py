"""Texts that break encoders, and many that do not."""

import random

WORDS = [
    "tide",
    "lamp",
    "gull",
    "bread",
    "inverter",
    "ledger",
    "trail",
    "council",
    "seal",
    "harbour",
    "notice",
    "kettle",
    "frost",
    "window",
    "parcel",
]
HARD = [
    "",
    " ",
    "\n\t",
    "word",
    "a",
    "\x00",
    "before\x00after",
    "🙂",
    "👩‍👩‍👧‍👦 family 🇳🇴",
    "שלום עולם",
    "مرحبا بالعالم",
    "你好世界",
    "naïve café ﬁ ﬂ Å",
    "def f(x: int) -> int:\n    return x ** 2  # ERR-4711",
    "SELECT * FROM t WHERE a <> 'b';",
    "<script>alert(1)</script>",
    "https://example.org/a?b=c&d=%20",
    "[MASK] [CLS] [SEP] [PAD]",
    "\u200b\u200d\ufeff",
    "x" * 3000,
    "1234567890 " * 30,
    " ".join(WORDS * 134)[:12000],  # about 2,000 words
]


def mixed_texts(n: int, seed: int = 0) -> list[str]:
    """The hard texts, and random sentences of 1 to 60 words, up to n."""
    rng = random.Random(seed)
    plain = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(n - len(HARD))]
    return HARD + plain
