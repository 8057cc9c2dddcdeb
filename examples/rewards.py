"""A reward function of one's own: `reward_funcs: numeric, examples/rewards.py:brevity`.

It is called with keywords, each a list with one item an answer: prompts, completions, completion_ids, answers, and each further
column of the data by its name. It knows nothing of how the answers came about.
"""


def brevity(completions: list[str], **columns: list) -> list[float]:
    """1 for an empty answer, 0 from 400 characters on."""
    return [max(0.0, 1 - len(text) / 400) for text in completions]
