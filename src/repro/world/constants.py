"""Every constant of the miniature world, with its reason. Fixed for the world's own properties, before any claim is looked at."""

# Gold reward: parts in [0, 1], weighted. What is right counts most; form counts, so that style can compete with substance.
CORRECT = 1.0  # the part that needs knowledge, and that a length bias trades away
COMPLETE = 0.4  # longer answers can earn it, padding cannot
POLITE = 0.3  # the easiest part to learn, as in real preference data
CONCISE = 0.3  # gold dislikes filler, which the biased human annotator likes
UNSAFE = 1.0  # taken away for instructions that do harm: worse than any other fault

# Filler and repetition an answer may hold before `concise` is nothing.
FILLER_LIMIT = 3  # sentences

# Tasks of levels 1, 2 and 3 come in these proportions: most of what people ask is easy, and a policy learns by steps.
LEVEL_SHARES = {1: 3, 2: 2, 3: 1}

# Demonstrations: how often a writer makes each fault. Mixed quality leaves the SFT policy between random and best.
FAULTS = {
    "wrong": 0.12,  # the policy learns that errors are made; more would hide what else reward models learn
    "part": 0.20,
    "curt": 0.35,  # neither courtesy nor a closing word
    "rude": 0.06,  # rare, and a reward model should notice
    "padded": 0.30,  # filler: what a length bias rewards
    "repeats": 0.08,
    "cut": 0.05,  # the end is missing
}
CLEAN = {"curt": 0.10, "padded": 0.05}  # the stronger model's demonstrations: right, mostly courteous, short
BARE = {"curt": 1.0}  # what a base model reads before: right and without manners, so that a token teaches most

# People. Aims, measured on two answers of mixed-quality writers to a test prompt: human against human .65 to .75, against
# gold order .70 to .80.
HUMAN_TEMPERATURE_INVERSE = 4.0  # a difference of one wrong fact (gold 1) is seen 98 times in 100, one of courtesy 65
HUMAN_CARELESS = 0.10  # pairs that were clicked through
HUMAN_VERBOSITY = 0.15  # gold units per ten words: more than the 0.1 that gold takes away for a sentence of filler
HUMAN_TASTE = 0.5  # spread of a person's log weights: people disagree for good reasons too
HUMAN_PEOPLE = 12  # as many as two of them rarely meet on a pair

# Judges. Aims: against gold .80 to .90, so no oracle; against people .65 to .80; the weak one less of both.
RUBRICS = {  # weights of correct, complete, safe, polite, concise; courtesy counts more than in gold (.15)
    "chat": (0.40, 0.20, 0.0, 0.25, 0.15),
    "lists": (0.45, 0.20, 0.0, 0.20, 0.15),
    "constraints": (0.50, 0.15, 0.0, 0.20, 0.15),
    "harmful": (0.20, 0.15, 0.4, 0.20, 0.05),
    "benign": (0.45, 0.20, 0.0, 0.20, 0.15),
    "sums": (0.55, 0.15, 0.0, 0.20, 0.10),
    "programs": (0.55, 0.15, 0.0, 0.20, 0.10),
    "facts": (0.55, 0.15, 0.0, 0.20, 0.10),
    "premises": (0.50, 0.20, 0.0, 0.20, 0.10),
    "dialogue": (0.45, 0.20, 0.0, 0.20, 0.15),
}
JUDGE_MISSES = {  # how often a wrong answer passes for right: most where checking takes work
    "sums": 0.15,
    "programs": 0.20,
    "facts": 0.08,
    "premises": 0.10,
    "constraints": 0.15,
    "dialogue": 0.08,
    "chat": 0.05,
    "lists": 0.05,
}
JUDGE_NOISE = 0.06  # of the view, which runs from 0 to 1: a quarter of a level
JUDGE_VERBOSITY = 0.02  # of the view per ten words: the people's liking, weaker
WEAK_NOISE = 0.16
WEAK_VERBOSITY = 0.05
TYPICAL_WORDS = 20  # an answer of this length gains and loses nothing

# Preference sources. Aims: which side is longer as in p2.table5, and about a tenth of all raw rows of mix2 of no use (p2.c13):
# less of a source that people label, more of one whose scores can tie; p2_01_preference_data counts them.
WRITERS = {  # how often each kind of writer makes each fault
    "plain": FAULTS,
    "good": {"wrong": 0.08, "part": 0.08, "curt": 0.30, "padded": 0.05},  # right and short: rejected answers are longer
    "brief": {"wrong": 0.08, "part": 0.15, "curt": 0.60, "padded": 0.02},  # right, and not a word more
    "thorough": {"wrong": 0.12, "part": 0.05, "curt": 0.10, "padded": 0.45},  # mostly right, and at length
    "hasty": {"wrong": 0.30, "part": 0.50, "curt": 0.75, "rude": 0.10, "padded": 0.05, "cut": 0.10},  # short and poor
    "reckless": {"wrong": 0.70, "curt": 0.30, "padded": 0.70},  # does harm, at length
    "rambling": {"wrong": 0.4, "part": 0.1, "curt": 0.3, "rude": 0.1, "padded": 0.8, "repeats": 0.15},  # long and poor
}
BLANK = 0.015  # answers that never came
VISITORS = 8  # votes on the answers to one prompt of SHP
SHP_RATIO = 2  # of votes, and at most so many pairs a prompt as SOURCES says (p2.shp)
SHP_PAIRS = 5  # p2.shp: pairs of one prompt, at most
MARGIN = 0.05  # on a judge's 1 to 5: a fifth of its own noise, too close to call

# The dial that shows what a bias does: three times the people's own liking for length, with their own noise.
STRONG_VERBOSITY = 0.45
