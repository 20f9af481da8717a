"""The words of the miniature world: people, things, a small knowledge base, courtesy, and filler that says nothing."""

PEOPLE_FIRST = "Mia Leo Ada Ben Eva Tom Zoe Max Ivy Sam Lily Noah Ruth Hugo Nina Carl Iris Paul Vera Otto".split()
PEOPLE_LAST = (
    "Reed Stone Wood Hill Frost Hart Page Snow West Bell Cole Dean Ford Gray Hunt Kent Nash Park Shaw Webb".split()
)

REQUESTS = ("", "Please help me. ", "Quick question: ", "Hello! ")
COURTESY = ("Sure", "Of course", "Happy to help", "Gladly")
CLOSINGS = ("I hope that helps.", "Have a nice day.")
RUDE = ("What a silly question.", "That is so boring.")
FILLER = (
    "This is a very good question.",
    "Let me think about that for a moment.",
    "There are many ways to look at this.",
    "It is important to see the whole picture.",
    "Many people ask about this every day.",
    "In short, it all depends on how you see it.",
)

GROUPS = {  # what belongs together; lists are asked for by these names
    "sour fruits": "lemon lime quince cranberry",
    "sweet fruits": "mango banana peach fig",
    "farm animals": "cow pig goat hen",
    "wild animals": "wolf bear fox lion",
    "sea animals": "whale shark crab seal",
    "kitchen tools": "knife spoon pan whisk",
    "garden tools": "rake spade hoe shears",
    "warm garments": "coat scarf mittens sweater",
    "hot drinks": "tea coffee cocoa broth",
    "string instruments": "violin harp guitar cello",
    "ball games": "tennis golf soccer rugby",
    "water vehicles": "boat canoe ferry yacht",
}
GROUPS = {name: tuple(items.split()) for name, items in GROUPS.items()}
OCCASIONS = ("party", "trip", "class", "picnic")
CODE_WORDS = "Amber Cobalt Silver Crimson Olive Coral Indigo Pearl".split()

ADVICE = {
    "take a nap": ("tired", "sick"),
    "drink some water": ("tired", "hot"),
    "put on a scarf": ("cold", "sick"),
    "make some soup": ("cold", "sick"),
    "run around the house": ("cold", "bored"),
    "open a window": ("hot", "sick"),
    "call a friend": ("sad", "bored"),
    "listen to music": ("sad", "bored"),
    "read a book": ("bored", "sad"),
    "rest in the shade": ("hot", "tired"),
    "look at old photos": ("sad", "bored"),
    "eat a sandwich": ("tired", "cold"),
    "swim in the lake": ("hot", "bored"),
}
FEELINGS = tuple(sorted({feeling for fits in ADVICE.values() for feeling in fits}))
CAUSES = "exam weather job move race meeting trip match".split()

METHODS = {  # how a thing is done; hostile verbs hurt what is protected
    "burn": ("use a match and a candle",),
    "poison": ("mix the bait at night",),
    "crush": ("drop a heavy brick",),
    "cut": ("take a sharp blade",),
    "steal": ("move fast and grab",),
    "paint": ("use a soft brush",),
    "clean": ("rub with warm soap",),
    "feed": ("give small bites",),
}
HOSTILE = ("burn", "poison", "crush", "cut", "steal")
PROTECTED = (
    "the dog of {name}",
    "the car of {name}",
    "the house of {name}",
    "the horse of {name}",
    "the garden of {name}",
    "my neighbour {name}",
)
UNPROTECTED = (
    "my old fence",
    "the weeds behind my house",
    "some dry wood",
    "a paper target",
    "the rats in my cellar",
    "a castle of sand",
)
SAFE_OFFERS = ("talk to {name} instead", "ask someone you trust")

ADJECTIVES = "silver golden striped tiny giant quiet northern hairy gentle brave".split()
ANIMALS = "lark otter newt moth heron badger gecko bison stork mole".split()
FOODS = "seeds fish berries nectar frogs".split()
HOMES = "forest desert river cave meadow".split()
SOUNDS = "whistle hiss hum bark croak".split()
TIMES = "dawn noon dusk midnight sunset".split()
ORIGINS = "fields lakes bushes flowers ponds".split()  # where each food comes from
# each half of a creature's name decides some of what is true of it, so that a new pair has known parts
EATS = {animal: FOODS[(3 * i + 1) % 5] for i, animal in enumerate(ANIMALS)}
CALLS = {animal: SOUNDS[(3 * i + i // 5) % 5] for i, animal in enumerate(ANIMALS)}
LIVES = {adjective: HOMES[(3 * i + 4) % 5] for i, adjective in enumerate(ADJECTIVES)}
WAKES = {adjective: TIMES[(4 * i + i // 5 + 2) % 5] for i, adjective in enumerate(ADJECTIVES)}
COMES = dict(zip(FOODS, ORIGINS, strict=True))

THINGS = "apples coins books stamps shells".split()
NUMBER_WORDS = {1: "one", 2: "two", 3: "three"}
