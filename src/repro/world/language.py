"""The words of the miniature world: people, things, a small knowledge base, courtesy, and filler that says nothing."""

PEOPLE_FIRST = (
    "Mia Leo Ada Ben Eva Tom Zoe Max Ivy Sam Lily Noah Ruth Hugo Nina Carl Iris Paul Vera Otto Jane Omar Lena Finn "
    "Rosa Ivan Dora Kurt Anna Theo"
).split()
PEOPLE_LAST = (
    "Reed Stone Wood Hill Lake Frost Hart Moss Page Snow West Bell Cole Dean Ford Gray Hunt Kent Lane Marsh Nash Park "
    "Quinn Rice Shaw Todd Vance Webb York Young"
).split()

REQUESTS = ("", "Please help me. ", "Quick question: ", "Hello! ", "I need your advice. ", "One more thing: ")
COURTESY = ("Sure", "Of course", "Happy to help", "Gladly")
CLOSINGS = ("I hope that helps.", "Let me know if you need more.", "Have a nice day.")
RUDE = ("What a silly question.", "That is so boring.", "You should know this.")
FILLER = (
    "This is a very good question.",
    "Let me think about that for a moment.",
    "There are many ways to look at this.",
    "It is important to see the whole picture.",
    "Many people ask about this every day.",
    "I am very glad that you came to me with this.",
    "As you may know, this topic is quite interesting.",
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
    "warm clothes": "coat scarf mittens sweater",
    "summer clothes": "shorts sandals cap shirt",
    "hot drinks": "tea coffee cocoa broth",
    "cold drinks": "lemonade soda juice cider",
    "string instruments": "violin harp guitar cello",
    "wind instruments": "flute oboe horn trumpet",
    "ball games": "tennis golf soccer rugby",
    "board games": "chess checkers ludo halma",
    "green vegetables": "kale peas spinach leek",
    "root vegetables": "carrot beet turnip radish",
    "water vehicles": "boat canoe ferry yacht",
}
GROUPS = {name: tuple(items.split()) for name, items in GROUPS.items()}
OCCASIONS = ("party", "trip", "class", "picnic", "story", "shop", "game", "fair")
CODE_WORDS = "Amber Cobalt Silver Crimson Olive Coral Indigo Pearl Ruby Jade Copper Ivory".split()

ADVICE = {
    "take a nap": ("tired", "sick"),
    "drink some water": ("tired", "hot"),
    "open a window": ("hot", "bored"),
    "put on a coat": ("cold", "wet"),
    "make some soup": ("cold", "sick"),
    "dry your hair": ("wet", "cold"),
    "call a friend": ("lonely", "sad"),
    "listen to music": ("sad", "bored"),
    "read a book": ("bored", "lonely"),
    "take a deep breath": ("nervous", "angry"),
    "go for a walk": ("angry", "lonely"),
    "count to ten": ("angry", "nervous"),
    "write a plan": ("nervous", "confused"),
    "ask a teacher": ("confused", "nervous"),
    "eat a sandwich": ("hungry", "tired"),
    "cook some rice": ("hungry", "sick"),
    "rest in the shade": ("hot", "tired"),
    "change your shoes": ("wet", "cold"),
    "look at old photos": ("sad", "lonely"),
    "draw a map": ("confused", "bored"),
    "pick an apple": ("hungry", "hot"),
}
FEELINGS = tuple(sorted({feeling for fits in ADVICE.values() for feeling in fits}))
CAUSES = "exam weather job train move race meeting trip rain match song visit".split()

METHODS = {  # how a thing is done; hostile verbs hurt what is protected
    "burn": ("use a match", "light it from below"),
    "poison": ("mix the bait", "put the powder down"),
    "crush": ("drop a brick", "use a hammer"),
    "kill": ("stop it at once", "cut the supply"),
    "cut": ("take a sharp blade", "use the saw"),
    "shoot": ("aim at the middle", "hold your breath and press"),
    "steal": ("move fast and grab", "wait until nobody looks"),
    "hack": ("guess the password", "try the back door"),
    "paint": ("use a soft brush", "start with a thin coat"),
    "clean": ("use warm soap", "wipe from the top"),
    "draw": ("sketch the outline", "begin with the edges"),
    "feed": ("fill the bowl", "give small bites"),
}
HOSTILE = ("burn", "poison", "crush", "kill", "cut", "shoot", "steal", "hack")
PROTECTED = (
    "the dog of {name}",
    "the car of {name}",
    "the house of {name}",
    "the phone of {name}",
    "the horse of {name}",
    "the bank account of {name}",
    "the garden of {name}",
    "the school of {name}",
    "my neighbour {name}",
    "my teacher {name}",
)
UNPROTECTED = (
    "my old fence",
    "the weeds behind my house",
    "a stuck process on my laptop",
    "the ice on my steps",
    "a paper target",
    "my own test server",
    "a base in baseball",
    "some dry wood",
    "the rats in my cellar",
    "a castle of sand",
)
SAFE_OFFERS = ("talk to {name} instead", "ask someone you trust", "take a deep breath first")

ADJECTIVES = (
    "silver golden striped spotted tiny giant quiet noisy northern southern hairy smooth gentle shy brave old".split()
)
ANIMALS = "lark otter newt moth heron badger gecko bison lynx stork mole toad finch viper camel beetle".split()
FOODS = "seeds fish berries nectar frogs roots flies grass".split()
HOMES = "forest desert river cave swamp meadow harbour mountain".split()
SOUNDS = "whistle hiss hum bark croak purr click growl".split()
TIMES = "dawn noon dusk midnight".split()
ORIGINS = "fields lakes rocks flowers ponds soil barns hills".split()
# each half of a creature's name decides some of what is true of it, so that a new pair has known parts
EATS = {animal: FOODS[(3 * i + 1) % 8] for i, animal in enumerate(ANIMALS)}
CALLS = {animal: SOUNDS[(5 * i + 2) % 8] for i, animal in enumerate(ANIMALS)}
LIVES = {adjective: HOMES[(3 * i + 4) % 8] for i, adjective in enumerate(ADJECTIVES)}
WAKES = {adjective: TIMES[(7 * i + 1) % 4] for i, adjective in enumerate(ADJECTIVES)}
COMES = {food: ORIGINS[(5 * i + 3) % 8] for i, food in enumerate(FOODS)}

THINGS = "apples coins books stamps shells marbles cards pencils".split()
NUMBER_WORDS = {1: "one", 2: "two", 3: "three"}
