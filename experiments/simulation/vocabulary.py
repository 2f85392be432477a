"""Words of which the synthetic shop composes titles and descriptions, so that text models have real text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Department:
    """A category of products: their nouns, materials, sizes, range of prices, and uses."""

    name: str
    nouns: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    price: tuple[float, float]
    uses: tuple[str, ...]


COLOURS = (
    "Blue", "Sage Green", "Ivory", "Terracotta", "Charcoal", "Mustard",
    "Blush Pink", "Navy", "White", "Black", "Plum", "Sky Blue",
)  # fmt: skip

# a style, and the phrase for it in a description
STYLES = {
    "Rustic": "a rustic look with a hand-finished surface",
    "Vintage": "a vintage look found on old market stalls",
    "Modern": "clean modern lines and nothing too much",
    "Scandinavian": "a calm Scandinavian shape and soft edges",
    "Floral": "a pattern of meadow flowers",
    "Striped": "a fresh striped pattern",
    "Art Deco": "bold Art Deco geometry",
    "Nautical": "a nautical touch of rope and sail",
}

DEPARTMENTS = (
    Department(
        "Tea and Coffee",
        ("Teapot", "Mug", "Espresso Cup", "Milk Jug", "Tea Caddy", "Coffee Dripper", "Sugar Bowl", "Kettle"),
        ("Ceramic", "Glass", "Enamel", "Stoneware"),
        ("0.3 l", "0.8 l", "1.2 l", "set of 2"),
        (6, 48),
        ("slow breakfasts", "afternoon tea", "the first cup of the day"),
    ),
    Department(
        "Kitchen",
        (
            "Mixing Bowl",
            "Chopping Board",
            "Storage Jar",
            "Utensil Pot",
            "Spice Rack",
            "Colander",
            "Rolling Pin",
        ),
        ("Wooden", "Steel", "Enamel", "Stoneware"),
        ("small", "medium", "large", "set of 3"),
        (5, 60),
        ("everyday cooking", "busy family kitchens", "preparing a feast"),
    ),
    Department(
        "Baking",
        (
            "Cake Tin",
            "Cake Stand",
            "Cookie Cutter",
            "Muffin Tray",
            "Pie Dish",
            "Icing Set",
            "Measuring Spoons",
        ),
        ("Tin", "Ceramic", "Silicone", "Glass"),
        ("18 cm", "24 cm", "set of 4", "set of 12"),
        (4, 38),
        ("birthday cakes", "weekend baking", "baking with children"),
    ),
    Department(
        "Tableware",
        (
            "Dinner Plate",
            "Soup Bowl",
            "Serving Platter",
            "Salad Bowl",
            "Side Plate",
            "Napkin Ring",
            "Gravy Boat",
        ),
        ("Porcelain", "Stoneware", "Bamboo", "Glass"),
        ("20 cm", "27 cm", "set of 4", "set of 6"),
        (5, 70),
        ("long dinners with friends", "a festive table", "everyday meals"),
    ),
    Department(
        "Candles and Light",
        (
            "Scented Candle",
            "Candle Holder",
            "Lantern",
            "Table Lamp",
            "Fairy Lights",
            "Tealight Holder",
            "Night Light",
        ),
        ("Glass", "Brass", "Paper", "Metal"),
        ("small", "tall", "2 m", "set of 3"),
        (3, 85),
        ("winter evenings", "a quiet bath", "parties on the terrace"),
    ),
    Department(
        "Garden",
        ("Plant Pot", "Watering Can", "Bird Feeder", "Garden Stool", "Wind Chime", "Seed Box", "Planter"),
        ("Terracotta", "Metal", "Wooden", "Willow"),
        ("12 cm", "20 cm", "5 l", "set of 2"),
        (4, 75),
        ("a sunny balcony", "the herb bed", "the first days of spring"),
    ),
    Department(
        "Toys and Games",
        ("Building Blocks", "Jigsaw Puzzle", "Skittles", "Spinning Top", "Doll House", "Toy Train", "Kite"),
        ("Wooden", "Cotton", "Tin", "Cardboard"),
        ("age 1 and up", "age 3 and up", "age 5 and up", "100 pieces"),
        (4, 65),
        ("rainy afternoons", "small hands", "playing outdoors"),
    ),
    Department(
        "Stationery",
        ("Notebook", "Greeting Card", "Gift Wrap", "Desk Organiser", "Letter Set", "Calendar", "Pencil Case"),
        ("Paper", "Linen", "Leather", "Cork"),
        ("A6", "A5", "A4", "set of 10"),
        (2, 32),
        ("letters to friends", "a tidy desk", "ideas on the move"),
    ),
    Department(
        "Bags",
        ("Tote Bag", "Shopper", "Lunch Bag", "Wash Bag", "Rucksack", "Purse", "Weekend Bag"),
        ("Cotton", "Canvas", "Leather", "Jute"),
        ("small", "medium", "large", "foldable"),
        (5, 95),
        ("market days", "picnics", "a weekend by the sea"),
    ),
    Department(
        "Bedroom",
        ("Cushion", "Quilt", "Bed Throw", "Hot Water Bottle", "Pillowcase", "Eye Mask", "Doorstop"),
        ("Linen", "Wool", "Cotton", "Velvet"),
        ("small", "large", "pair", "single"),
        (8, 120),
        ("Sunday mornings", "cold nights", "the reading chair"),
    ),
    Department(
        "Bath",
        ("Hand Towel", "Bath Mat", "Soap Dish", "Bath Salts", "Toothbrush Holder", "Bathrobe", "Hand Cream"),
        ("Cotton", "Ceramic", "Bamboo", "Glass"),
        ("small", "large", "travel size", "set of 2"),
        (4, 70),
        ("a long soak", "guests", "sensitive skin"),
    ),
    Department(
        "Jewellery",
        ("Necklace", "Bracelet", "Earrings", "Brooch", "Ring Dish", "Hair Clip", "Jewellery Box"),
        ("Silver", "Gold-Plated", "Beaded", "Enamel"),
        ("adjustable", "45 cm", "one size", "gift boxed"),
        (6, 90),
        ("a special evening", "every day", "someone you love"),
    ),
    Department(
        "Home Decor",
        ("Wall Clock", "Picture Frame", "Vase", "Mirror", "Wall Sign", "Door Wreath", "Storage Basket"),
        ("Wooden", "Metal", "Glass", "Rattan"),
        ("10 x 15 cm", "30 cm", "45 cm", "set of 3"),
        (6, 140),
        ("the hallway", "a gallery wall", "fresh flowers"),
    ),
    Department(
        "Christmas",
        (
            "Bauble",
            "Christmas Stocking",
            "Advent Calendar",
            "Tree Topper",
            "Garland",
            "Gift Box",
            "Snow Globe",
        ),
        ("Glass", "Felt", "Wooden", "Paper"),
        ("small", "large", "set of 6", "24 windows"),
        (3, 45),
        ("Christmas Eve", "the tree", "the weeks before Christmas"),
    ),
)
