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


def _words(text: str) -> tuple[str, ...]:
    """Words or phrases, separated by ", "."""
    return tuple(text.split(", "))


COLOURS = _words(
    "Blue, Sage Green, Ivory, Terracotta, Charcoal, Mustard, Blush Pink, Navy, White, Black, Plum, Sky Blue"
)

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
        _words("Teapot, Mug, Espresso Cup, Milk Jug, Tea Caddy, Coffee Dripper, Sugar Bowl, Kettle"),
        _words("Ceramic, Glass, Enamel, Stoneware"),
        _words("0.3 l, 0.8 l, 1.2 l, set of 2"),
        (6, 48),
        _words("slow breakfasts, afternoon tea, the first cup of the day"),
    ),
    Department(
        "Kitchen",
        _words("Mixing Bowl, Chopping Board, Storage Jar, Utensil Pot, Spice Rack, Colander, Rolling Pin"),
        _words("Wooden, Steel, Enamel, Stoneware"),
        _words("small, medium, large, set of 3"),
        (5, 60),
        _words("everyday cooking, busy family kitchens, preparing a feast"),
    ),
    Department(
        "Baking",
        _words("Cake Tin, Cake Stand, Cookie Cutter, Muffin Tray, Pie Dish, Icing Set, Measuring Spoons"),
        _words("Tin, Ceramic, Silicone, Glass"),
        _words("18 cm, 24 cm, set of 4, set of 12"),
        (4, 38),
        _words("birthday cakes, weekend baking, baking with children"),
    ),
    Department(
        "Tableware",
        _words("Dinner Plate, Soup Bowl, Serving Platter, Salad Bowl, Side Plate, Napkin Ring, Gravy Boat"),
        _words("Porcelain, Stoneware, Bamboo, Glass"),
        _words("20 cm, 27 cm, set of 4, set of 6"),
        (5, 70),
        _words("long dinners with friends, a festive table, everyday meals"),
    ),
    Department(
        "Candles and Light",
        _words(
            "Scented Candle, Candle Holder, Lantern, Table Lamp, Fairy Lights, Tealight Holder, Night Light"
        ),
        _words("Glass, Brass, Paper, Metal"),
        _words("small, tall, 2 m, set of 3"),
        (3, 85),
        _words("winter evenings, a quiet bath, parties on the terrace"),
    ),
    Department(
        "Garden",
        _words("Plant Pot, Watering Can, Bird Feeder, Garden Stool, Wind Chime, Seed Box, Planter"),
        _words("Terracotta, Metal, Wooden, Willow"),
        _words("12 cm, 20 cm, 5 l, set of 2"),
        (4, 75),
        _words("a sunny balcony, the herb bed, the first days of spring"),
    ),
    Department(
        "Toys and Games",
        _words("Building Blocks, Jigsaw Puzzle, Skittles, Spinning Top, Doll House, Toy Train, Kite"),
        _words("Wooden, Cotton, Tin, Cardboard"),
        _words("age 1 and up, age 3 and up, age 5 and up, 100 pieces"),
        (4, 65),
        _words("rainy afternoons, small hands, playing outdoors"),
    ),
    Department(
        "Stationery",
        _words("Notebook, Greeting Card, Gift Wrap, Desk Organiser, Letter Set, Calendar, Pencil Case"),
        _words("Paper, Linen, Leather, Cork"),
        _words("A6, A5, A4, set of 10"),
        (2, 32),
        _words("letters to friends, a tidy desk, ideas on the move"),
    ),
    Department(
        "Bags",
        _words("Tote Bag, Shopper, Lunch Bag, Wash Bag, Rucksack, Purse, Weekend Bag"),
        _words("Cotton, Canvas, Leather, Jute"),
        _words("small, medium, large, foldable"),
        (5, 95),
        _words("market days, picnics, a weekend by the sea"),
    ),
    Department(
        "Bedroom",
        _words("Cushion, Quilt, Bed Throw, Hot Water Bottle, Pillowcase, Eye Mask, Doorstop"),
        _words("Linen, Wool, Cotton, Velvet"),
        _words("small, large, pair, single"),
        (8, 120),
        _words("Sunday mornings, cold nights, the reading chair"),
    ),
    Department(
        "Bath",
        _words("Hand Towel, Bath Mat, Soap Dish, Bath Salts, Toothbrush Holder, Bathrobe, Hand Cream"),
        _words("Cotton, Ceramic, Bamboo, Glass"),
        _words("small, large, travel size, set of 2"),
        (4, 70),
        _words("a long soak, guests, sensitive skin"),
    ),
    Department(
        "Jewellery",
        _words("Necklace, Bracelet, Earrings, Brooch, Ring Dish, Hair Clip, Jewellery Box"),
        _words("Silver, Gold-Plated, Beaded, Enamel"),
        _words("adjustable, 45 cm, one size, gift boxed"),
        (6, 90),
        _words("a special evening, every day, someone you love"),
    ),
    Department(
        "Home Decor",
        _words("Wall Clock, Picture Frame, Vase, Mirror, Wall Sign, Door Wreath, Storage Basket"),
        _words("Wooden, Metal, Glass, Rattan"),
        _words("10 x 15 cm, 30 cm, 45 cm, set of 3"),
        (6, 140),
        _words("the hallway, a gallery wall, fresh flowers"),
    ),
    Department(
        "Christmas",
        _words("Bauble, Christmas Stocking, Advent Calendar, Tree Topper, Garland, Gift Box, Snow Globe"),
        _words("Glass, Felt, Wooden, Paper"),
        _words("small, large, set of 6, 24 windows"),
        (3, 45),
        _words("Christmas Eve, the tree, the weeks before Christmas"),
    ),
)
