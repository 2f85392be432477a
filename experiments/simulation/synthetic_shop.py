"""A synthetic shop: readable products, and shoppers with latent tastes, intents and a sense of fashion.

Truth. Every word (department, noun, material, style, colour) has a place in a latent space of `DIMENSIONS`;
an item stands where its words stand, plus something of its own that no text tells. A shopper likes two or
three departments, a style and a colour, and comes to each session with an intent: one of the departments
liked, wanted more than usual. Attraction of item i for shopper u in session s at time t:

    sigmoid(INTERCEPT + TASTE * cos(taste[u, s], item[i]) + quality[i] + trend[i](t))

`trend` is a slow wave of each item's own, so that what was popular last month is not what is popular now.
Popularity earns clicks by quality and trend, collaborative filtering finds tastes beside it, text finds
what words say of them, and the click that tells the session's intent makes the next slate better: better
models really earn more clicks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, Visits
from experiments.simulation.hash_uniform import luck
from experiments.simulation.vocabulary import COLOURS, DEPARTMENTS, STYLES

DIMENSIONS = 24
INTERCEPT = -7.3
TASTE = 6.0
QUALITY = 0.6  # standard deviation over items
TREND = 1.2  # largest swing of an item
TREND_PERIOD_S = (14 * 86_400.0, 70 * 86_400.0)
INTENT = 1.1  # pull of the session's department beside the lasting taste (of length 1)
OWN = 0.7  # share of an item's place that no word tells
WEIGHTS = {"department": 1.0, "noun": 0.55, "material": 0.25, "style": 0.5, "colour": 0.35}

_INTENT = 11  # stream of luck


@dataclass(frozen=True, slots=True)
class Products:
    """The catalogue as arrays of one length: items ("p00042"), title, category, description: unicode;
    price: float32."""

    items: NDArray[np.str_]
    title: NDArray[np.str_]
    category: NDArray[np.str_]
    description: NDArray[np.str_]
    price: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SyntheticShop:
    """The shop and its truth; a `World`.

    place: float32 [n_items, DIMENSIONS], unit length; quality, trend_size, trend_period_s, trend_phase:
    float32 [n_items]; taste: float32 [n_shoppers, DIMENSIONS], unit length; liked: int32 [n_shoppers, 3],
    departments; departments: float32 [n_departments, DIMENSIONS]; activity: float64 [n_shoppers], how often
    each comes (sums to 1)."""

    seed: int
    products: Products
    users: NDArray[np.str_]
    place: NDArray[np.float32]
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
        """How many shoppers there are."""
        return len(self.taste)

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.place)

    def trend(self, at_s: float) -> NDArray[np.float32]:
        """What fashion adds to each item's logit at `at_s`, float32 [n_items]."""
        turns = at_s / self.trend_period_s.astype(np.float64)
        return (self.trend_size * np.sin(2 * np.pi * (turns % 1.0) + self.trend_phase)).astype(np.float32)

    def taste_with_intent(
        self, shopper: NDArray[np.int32], department: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Taste of a session, float32 [b, DIMENSIONS], unit length: the lasting taste, pulled to the
        `department`-th (0, 1 or 2) of those that the shopper likes."""
        wanted = self.departments[self.liked[shopper, department]]
        return _unit(self.taste[shopper] + INTENT * wanted)

    def intent(self, visits: Visits) -> NDArray[np.int64]:
        """Which of the departments liked each session is for, int64 [b] in 0..2."""
        return (luck(self.seed, _INTENT, visits.session) * self.liked.shape[1]).astype(np.int64)

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n]; 0 where NO_ITEM (see
        `experiments.simulation.click_model.World`)."""
        appeal = INTERCEPT + self.quality + self.trend(visits.at_s)
        taste = self.taste_with_intent(visits.shopper, self.intent(visits))
        liking = np.einsum("bnd,bd->bn", self.place[slate], taste)
        logit = appeal[slate] + TASTE * liking
        return np.where(slate == NO_ITEM, 0.0, 1.0 / (1.0 + np.exp(-logit.astype(np.float64))))

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """Who comes next, int32 [n]: regulars come more often, so users return."""
        return rng.choice(self.n_shoppers, size=n, p=self.activity).astype(np.int32)


def synthetic_shop(*, seed: int = 0, n_items: int = 2_400, n_shoppers: int = 4_000) -> SyntheticShop:
    """Found a shop. The same arguments give the same shop, to the last bit."""
    rng = np.random.default_rng([seed, 1])
    words = {kind: _unit(rng.normal(size=(count, DIMENSIONS))) for kind, count in _word_counts().items()}
    spelled = _spell(rng, n_items)
    place = sum(WEIGHTS[kind] * words[kind][spelled[kind]] for kind in WEIGHTS)
    own = OWN * _unit(rng.normal(size=(n_items, DIMENSIONS)))
    liked, taste = _tastes(rng, n_shoppers, words)
    visits = rng.lognormal(0.0, 0.8, n_shoppers)
    return SyntheticShop(
        seed=seed,
        products=_compose(rng, spelled),
        users=np.array([f"u{i:05d}" for i in range(n_shoppers)]),
        place=_unit(place + own),
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
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def _word_counts() -> dict[str, int]:
    return {
        "department": len(DEPARTMENTS),
        "noun": sum(len(d.nouns) for d in DEPARTMENTS),
        "material": len({m for d in DEPARTMENTS for m in d.materials}),
        "style": len(STYLES),
        "colour": len(COLOURS),
    }


def _spell(rng: np.random.Generator, n_items: int) -> dict[str, NDArray[np.int64]]:
    """Words of each item as indices, no two items alike: draw without replacement from all that could be
    made."""
    materials = sorted({m for d in DEPARTMENTS for m in d.materials})
    shelf = [
        (i, j, materials.index(material))
        for j, (i, noun) in enumerate((i, noun) for i, d in enumerate(DEPARTMENTS) for noun in d.nouns)
        for material in DEPARTMENTS[i].materials
    ]
    looks = len(STYLES) * len(COLOURS)
    if n_items > len(shelf) * looks:
        raise ValueError(
            f"n_items: {n_items} is more than the {len(shelf) * looks} products these words can make"
        )
    drawn = rng.choice(len(shelf) * looks, size=n_items, replace=False)
    goods = np.array(shelf)[drawn // looks]
    style, colour = np.divmod(drawn % looks, len(COLOURS))
    return {
        "department": goods[:, 0],
        "noun": goods[:, 1],
        "material": goods[:, 2],
        "style": style,
        "colour": colour,
    }


def _compose(rng: np.random.Generator, spelled: dict[str, NDArray[np.int64]]) -> Products:
    nouns = [noun for d in DEPARTMENTS for noun in d.nouns]
    materials = sorted({m for d in DEPARTMENTS for m in d.materials})
    titles, descriptions, prices = [], [], []
    for d, noun, material, style, colour in zip(*spelled.values(), strict=True):
        shop, look = DEPARTMENTS[d], list(STYLES)[style]
        size = shop.sizes[rng.integers(len(shop.sizes))]
        use = shop.uses[rng.integers(len(shop.uses))]
        titles.append(f"{look} {COLOURS[colour]} {materials[material]} {nouns[noun]}, {size}")
        descriptions.append(
            f"{nouns[noun]} in {COLOURS[colour].lower()} {materials[material].lower()}, with {STYLES[look]}. "
            f"Made for {use}. Size: {size}."
        )
        low, high = np.log(shop.price)
        prices.append(np.exp(rng.uniform(low, high)))
    return Products(
        items=np.array([f"p{i:05d}" for i in range(len(titles))]),
        title=np.array(titles),
        category=np.array([DEPARTMENTS[d].name for d in spelled["department"]]),
        description=np.array(descriptions),
        price=(np.floor(np.array(prices) * 2) / 2 + 0.45).astype(np.float32),
    )


def _tastes(
    rng: np.random.Generator, n: int, words: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Departments liked, int32 [n, 3] (not all different: some have one love), and lasting tastes of unit
    length."""
    liked = rng.integers(len(DEPARTMENTS), size=(n, 3)).astype(np.int32)
    strength = np.sort(rng.dirichlet(np.ones(3), size=n), axis=1)[:, ::-1]
    taste = np.einsum("nk,nkd->nd", strength, words["department"][liked])
    taste = taste + WEIGHTS["style"] * words["style"][rng.integers(len(STYLES), size=n)]
    taste = taste + WEIGHTS["colour"] * words["colour"][rng.integers(len(COLOURS), size=n)]
    return liked, _unit(taste + 0.3 * _unit(rng.normal(size=(n, DIMENSIONS))))
