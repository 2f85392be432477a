"""A synthetic shop: readable products, and shoppers with latent tastes, session intents and changing trends.

Every word (department, noun, material, style, colour) has a vector in a latent space of `DIMENSIONS`. An
item's vector is the weighted sum of its words' vectors plus a part of its own that no text reveals. A shopper
likes two or three departments, a style and a colour, and comes to each session with an intent: one of the
liked departments, wanted more than usual. The attraction of item i for shopper u in session s at time t is

    sigmoid(INTERCEPT + TASTE * cos(taste[u, s], item[i]) + quality[i] + trend[i](t))

`trend` is a slow wave of each item's own, so that last month's popular items are not today's. Popularity
earns clicks by quality and trend, collaborative filtering also by taste, text by what words reveal of taste,
and a click that reveals the session's intent improves the next slate. Better models therefore earn more
clicks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, Visits
from experiments.simulation.hash_uniform import uniform
from experiments.simulation.vocabulary import COLOURS, DEPARTMENTS, STYLES

DIMENSIONS = 24
INTERCEPT = -7.3
TASTE = 6.0
QUALITY = 0.6  # standard deviation over items
TREND = 1.2  # largest swing of an item
TREND_PERIOD_S = (14 * 86_400.0, 70 * 86_400.0)
INTENT = 1.1  # weight of the session's department; the lasting taste has length 1
OWN = 0.7  # length of the part of an item's vector that no word reveals
WEIGHTS = {"department": 1.0, "noun": 0.55, "material": 0.25, "style": 0.5, "colour": 0.35}

_INTENT = 11  # random stream


@dataclass(frozen=True, slots=True)
class Products:
    """The catalogue; all arrays are [n_items]. items ("p00042"), title, category, description: unicode;
    price: float32."""

    items: NDArray[np.str_]
    title: NDArray[np.str_]
    category: NDArray[np.str_]
    description: NDArray[np.str_]
    price: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SyntheticShop:
    """A `SimulatedShop` with its true preferences.

    vectors: float32 [n_items, DIMENSIONS], unit length; quality, trend_size, trend_period_s, trend_phase:
    float32 [n_items]; taste: float32 [n_shoppers, DIMENSIONS], unit length; liked: int32 [n_shoppers, 3],
    departments; departments: float32 [n_departments, DIMENSIONS]; activity: float64 [n_shoppers], share of
    the sessions of each shopper (sums to 1).
    """

    seed: int
    products: Products
    users: NDArray[np.str_]
    vectors: NDArray[np.float32]
    quality: NDArray[np.float32]
    trend_size: NDArray[np.float32]
    trend_period_s: NDArray[np.float32]
    trend_phase: NDArray[np.float32]
    taste: NDArray[np.float32]
    liked: NDArray[np.int32]
    departments: NDArray[np.float32]
    activity: NDArray[np.float64]

    @property
    def n_shoppers(self) -> int:
        """Number of shoppers."""
        return len(self.taste)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.vectors)

    def trend(self, at_s: float) -> NDArray[np.float32]:
        """Contribution of the trend to each item's logit at `at_s` (s), float32 [n_items]."""
        turns = at_s / self.trend_period_s.astype(np.float64)
        wave = self.trend_size * np.sin(2 * np.pi * (turns % 1.0) + self.trend_phase)
        return wave.astype(np.float32)

    def taste_with_intent(
        self, shopper: NDArray[np.int32], department: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Taste in a session, float32 [b, DIMENSIONS], unit length: the lasting taste plus INTENT times the
        department of the session, the `department`-th (0, 1 or 2) of those that the shopper likes."""
        wanted = self.departments[self.liked[shopper, department]]
        return _unit(self.taste[shopper] + INTENT * wanted)

    def intent(self, visits: Visits) -> NDArray[np.int64]:
        """Which of the liked departments each session is for, int64 [b] in 0..2."""
        department: NDArray[np.int64] = (
            uniform(self.seed, _INTENT, visits.session) * self.liked.shape[1]
        ).astype(np.int64)
        return department

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n]; 0 where NO_ITEM."""
        appeal = INTERCEPT + self.quality + self.trend(visits.at_s)
        taste = self.taste_with_intent(visits.shopper, self.intent(visits))
        liking = np.einsum("bnd,bd->bn", self.vectors[slate], taste)
        logit = appeal[slate] + TASTE * liking
        return np.where(slate == NO_ITEM, 0.0, 1.0 / (1.0 + np.exp(-logit.astype(np.float64))))

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """Shoppers of the next `n` sessions, int32 [n], drawn by `activity`."""
        return rng.choice(self.n_shoppers, size=n, p=self.activity).astype(np.int32)


def synthetic_shop(*, seed: int = 0, n_items: int = 2_400, n_shoppers: int = 4_000) -> SyntheticShop:
    """A shop that is a function of its arguments, bit by bit."""
    rng = np.random.default_rng([seed, 1])
    words = {kind: _unit(rng.normal(size=(count, DIMENSIONS))) for kind, count in _word_counts().items()}
    word_of = _draw_words(rng, n_items)
    vectors = sum(WEIGHTS[kind] * words[kind][word_of[kind]] for kind in WEIGHTS)
    own = OWN * _unit(rng.normal(size=(n_items, DIMENSIONS)))
    liked, taste = _tastes(rng, n_shoppers, words)
    visits = rng.lognormal(0.0, 0.8, n_shoppers)
    return SyntheticShop(
        seed=seed,
        products=_compose(rng, word_of),
        users=np.array([f"u{i:05d}" for i in range(n_shoppers)]),
        vectors=_unit(vectors + own),
        quality=rng.normal(0.0, QUALITY, n_items).astype(np.float32),
        trend_size=rng.uniform(0.0, TREND, n_items).astype(np.float32),
        trend_period_s=rng.uniform(*TREND_PERIOD_S, n_items).astype(np.float32),
        trend_phase=rng.uniform(0.0, 2 * np.pi, n_items).astype(np.float32),
        taste=taste,
        liked=liked,
        departments=words["department"],
        activity=visits / visits.sum(),
    )


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def _word_counts() -> dict[str, int]:
    return {
        "department": len(DEPARTMENTS),
        "noun": sum(len(d.nouns) for d in DEPARTMENTS),
        "material": len({m for d in DEPARTMENTS for m in d.materials}),
        "style": len(STYLES),
        "colour": len(COLOURS),
    }


def _draw_words(rng: np.random.Generator, n_items: int) -> dict[str, NDArray[np.int64]]:
    """Indices of each item's words by kind of word, int64 [n_items] each. No two items have the same words,
    because they are drawn without replacement from all combinations."""
    materials = sorted({m for d in DEPARTMENTS for m in d.materials})
    kinds = [  # department, noun, material of everything that can be made
        (i, j, materials.index(material))
        for j, (i, noun) in enumerate((i, noun) for i, d in enumerate(DEPARTMENTS) for noun in d.nouns)
        for material in DEPARTMENTS[i].materials
    ]
    finishes = len(STYLES) * len(COLOURS)
    if n_items > len(kinds) * finishes:
        raise ValueError(
            f"n_items: {n_items} is more than the {len(kinds) * finishes} products that the words can make"
        )
    drawn = rng.choice(len(kinds) * finishes, size=n_items, replace=False)
    goods = np.array(kinds)[drawn // finishes]
    style, colour = np.divmod(drawn % finishes, len(COLOURS))
    return {
        "department": goods[:, 0],
        "noun": goods[:, 1],
        "material": goods[:, 2],
        "style": style,
        "colour": colour,
    }


def _compose(rng: np.random.Generator, word_of: dict[str, NDArray[np.int64]]) -> Products:
    nouns = [noun for d in DEPARTMENTS for noun in d.nouns]
    materials = sorted({m for d in DEPARTMENTS for m in d.materials})
    titles, descriptions, prices = [], [], []
    for d, noun, material, style, colour in zip(*word_of.values(), strict=True):
        department, style_name = DEPARTMENTS[d], list(STYLES)[style]
        size = department.sizes[rng.integers(len(department.sizes))]
        use = department.uses[rng.integers(len(department.uses))]
        titles.append(f"{style_name} {COLOURS[colour]} {materials[material]} {nouns[noun]}, {size}")
        descriptions.append(
            f"{nouns[noun]} in {COLOURS[colour].lower()} {materials[material].lower()}, "
            f"with {STYLES[style_name]}. Made for {use}. Size: {size}."
        )
        low, high = np.log(department.price)
        prices.append(np.exp(rng.uniform(low, high)))
    return Products(
        items=np.array([f"p{i:05d}" for i in range(len(titles))]),
        title=np.array(titles),
        category=np.array([DEPARTMENTS[d].name for d in word_of["department"]]),
        description=np.array(descriptions),
        price=(np.floor(np.array(prices) * 2) / 2 + 0.45).astype(np.float32),
    )


def _tastes(
    rng: np.random.Generator, n: int, words: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Liked departments, int32 [n, 3] (they may repeat), and lasting tastes, float32 [n, DIMENSIONS], unit
    length."""
    liked = rng.integers(len(DEPARTMENTS), size=(n, 3)).astype(np.int32)
    strength = np.sort(rng.dirichlet(np.ones(3), size=n), axis=1)[:, ::-1]
    taste = np.einsum("nk,nkd->nd", strength, words["department"][liked])
    taste = taste + WEIGHTS["style"] * words["style"][rng.integers(len(STYLES), size=n)]
    taste = taste + WEIGHTS["colour"] * words["colour"][rng.integers(len(COLOURS), size=n)]
    return liked, _unit(taste + 0.3 * _unit(rng.normal(size=(n, DIMENSIONS))))
