"""Real data sets as plain NumPy arrays: fetched once, verified by checksum, cached in `CELO_DATA_DIR`.

Reading the cache needs NumPy alone; scikit-learn, pillow and scipy are imported by the readers that need
them. Nothing here knows JAX: batches are made in `celo.tasks`.
"""

from celo.data._bundled import TABLES, load_photograph
from celo.data._cache import data_dir, raw_dir
from celo.data._corpora import CORPORA, PIECES, Tokens, load_tokens
from celo.data._load import fetch, is_cached, load_images, load_table, load_text
from celo.data._registry import DATASETS, DatasetInfo
from celo.data._splits import Images, Split, Table, Text

__all__ = [
    "CORPORA",
    "DATASETS",
    "PIECES",
    "TABLES",
    "DatasetInfo",
    "Images",
    "Split",
    "Table",
    "Text",
    "Tokens",
    "data_dir",
    "fetch",
    "is_cached",
    "load_images",
    "load_photograph",
    "load_table",
    "load_text",
    "load_tokens",
    "raw_dir",
]
