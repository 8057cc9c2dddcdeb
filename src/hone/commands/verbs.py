"""Verbs: the words after `hone`, each with the place of its command and one line on what it does.

Imports no command: each is imported when it is called.
"""

from __future__ import annotations

from hone.table import Table

LINES = {
    "train": "train a model as a YAML file says",
    "check": "look at everything before it costs: samples, lengths, plan, memory; or what a chat, server or export needs",
    "chat": "talk to a model in the terminal",
    "api": "serve a model by OpenAI's protocol",
    "webchat": "talk to a model on a page in the browser, beside the API",
    "export": "merge adapters into the model and write it",
    "parity": "compare an exported model with the trained one",
    "render": "show what a chat format makes of a conversation",
    "laws": "test the chat formats, alone or with a tokenizer",
    "models": "search the known models: ids on the hubs, sizes, templates",
    "convert": "print what a LLaMA-Factory YAML sets as hone's typed tree, or why it cannot run",
    "help": "this text, or what a command, section or setting means",
    "schema": "print the JSON schema of all settings, for editors",
    "env": "print versions and devices, for a report of a fault",
    "version": "print the version",
}
USAGE = {
    "train": "[FILE.yaml] [key=value ...]",
    "check": "[FILE.yaml] [key=value ...] [--json] [--for GPU]   (plans for a GPU that is not here: h100, 8xh100, rtx 4090 ...)",
    "chat": "[FILE.yaml] [key=value ...] [--image FILE] [--ask TEXT]",
    "api": "[FILE.yaml] [key=value ...]   (API_HOST, API_PORT, API_KEY, API_MODEL_NAME, MAX_CONCURRENT: the environment)",
    "webchat": "[FILE.yaml] [key=value ...]   (its address and key: the environment, as for api)",
    "export": "[FILE.yaml] [key=value ...]",
    "parity": "TRAINED EXPORTED [FILE.yaml] [key=value ...]   (folders; an adapter's; a .gguf file)",
    "render": "[--template NAME] --tokenizer DIR FILE.json   (FILE: messages and tools; - for standard input)",
    "laws": "[NAME] [--tokenizer DIR | --officials DIR] [--json]   (DIR of the makers' templates)",
    "models": "[WORD ...] [--json]",
    "convert": "FILE.yaml [key=value ...] [--all]   (--all: every default too)",
    "help": "[COMMAND | SECTION | KEY]",
    "schema": "",
    "env": "[--json]",
    "version": "",
}
VERBS = Table("command", {verb: f"hone.commands.{verb}:main" for verb in LINES})
NOT_HERE = {  # verbs of LLaMA-Factory that this version does not have
    "webui": "hone train with a YAML file",
    "eval": "hone train with do_eval: true",
}
