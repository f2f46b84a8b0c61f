"""Make src/powauth/accounts/common_passwords.txt.gz from the word lists of the MIT-licensed package zxcvbn 4.5.0.

Run it with that package on the path: ``pip download zxcvbn==4.5.0 --no-deps``, then ``PYTHONPATH=the.whl python`` this
file. The output depends only on the input. It contains no time stamp and no file name.

The ranking of leaked passwords comes first and keeps its order. zxcvbn removes words from it that another of its lists
ranks higher ("jennifer", "basketball"). Therefore the other lists, names and English words, follow in alphabetical
order. Entries under 8 characters are left out, because the length rule refuses them.
"""

import gzip
import io
from pathlib import Path

from zxcvbn.frequency_lists import FREQUENCY_LISTS

SHORTEST = 8
TARGET = Path(__file__).parents[1] / "src/powauth/accounts/common_passwords.txt.gz"

ranked = [word for word in FREQUENCY_LISTS["passwords"] if len(word) >= SHORTEST]
others = {word for words in FREQUENCY_LISTS.values() for word in words if len(word) >= SHORTEST} - set(ranked)
words = [*ranked, *sorted(others)]
buffer = io.BytesIO()
with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as file:
    file.write("\n".join(words).encode("ascii") + b"\n")
TARGET.write_bytes(buffer.getvalue())
print(len(words), "entries,", len(buffer.getvalue()), "bytes")
