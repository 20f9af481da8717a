"""Every constant of the miniature world, with its reason. Fixed for the world's own properties, before any claim is looked at."""

# Gold reward: parts in [0, 1], weighted. What is right counts most; form counts, so that style can compete with substance.
CORRECT = 1.0  # the part that needs knowledge, and that a length bias trades away
COMPLETE = 0.4  # longer answers can earn it, padding cannot
POLITE = 0.3  # the easiest part to learn, as in real preference data
CONCISE = 0.3  # gold dislikes filler, which the biased human annotator likes
UNSAFE = 1.0  # taken away for instructions that do harm: worse than any other fault

# Filler and repetition an answer may hold before `concise` is nothing.
FILLER_LIMIT = 3  # sentences

# Demonstrations: how often a writer makes each fault. Mixed quality leaves the SFT policy between random and best.
FAULTS = {
    "wrong": 0.20,  # the policy learns the task and also that errors are made
    "part": 0.20,
    "curt": 0.35,  # neither courtesy nor a closing word
    "rude": 0.06,  # rare, and a reward model should notice
    "padded": 0.30,  # filler: what a length bias rewards
    "repeats": 0.08,
    "cut": 0.05,  # the end is missing
}
CLEAN = {"curt": 0.10, "padded": 0.05}  # the stronger model's demonstrations: right, mostly courteous, short
