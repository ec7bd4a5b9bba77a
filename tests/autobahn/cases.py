"""The cases of the Autobahn WebSocket test suite, loaded under Python 3.

The suite is written in Python 2. Its cases are plain classes that talk to a connection object (see peer.py) and judge
what they saw; only the machinery around them needs Python 2. They are loaded as they are, with a few differences of
the language evened out: byte strings are `str` of Latin-1 (a byte is a character, in sources and in payloads), `/`
between whole numbers is `//`, `xrange` and `unichr` exist, and `object` may be the first of
several bases. Print statements stand in functions that nobody calls.
"""

import ast
import binascii
import builtins
import codecs
import importlib.metadata
import re
import sys
import types
from pathlib import Path

# Compression, which needs a peer that compresses (12.* and 13.*), and a stream without end that the suite leaves out too.
LEFT_OUT = {"case12_x_x", "case9_9_1"}

NAME = re.compile(r"Case(\d+(?:_\d+)*)$")


class Utf8Validator:
    """The part of autobahn's validator that cases use when they are made."""

    def reset(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, text):
        """Whether it is valid so far, and whether it ends between two characters."""
        self.reset()
        try:
            self.decoder.decode(text.encode("latin-1"))
        except UnicodeDecodeError:
            return (False, False)
        return (True, not self.decoder.getstate()[0])


class WebSocketProtocol:
    """The states that cases compare with."""

    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)


def make_type(*arguments):
    """`type`, for which `object` may come first among the bases."""
    if len(arguments) == 1:
        return type(*arguments)
    name, bases, members = arguments
    return type(name, tuple(base for base in bases if base is not object), members)


class ToPython3(ast.NodeTransformer):
    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            node.op = ast.FloorDiv()
        return node


def load_module(name, sources, modules):
    """Runs one of the suite's modules and what it imports of them."""
    if name in modules:
        return modules[name]
    module = modules[name] = types.ModuleType(name)
    module.__dict__["xrange"] = range
    module.__dict__["unichr"] = chr
    module.__dict__["type"] = make_type
    text = sources[name].read_bytes().decode("latin-1")
    # A coding line would speak of bytes, and prints would not parse.
    text = re.sub(r"^#.*coding.*$", "#", text, flags=re.MULTILINE)
    text = re.sub(r"^(\s*)print\b.*$", r"\1pass", text, flags=re.MULTILINE)
    tree = ast.fix_missing_locations(ToPython3().visit(ast.parse(text)))

    def import_module(wanted, *arguments, **named):
        if wanted in sources:
            return load_module(wanted, sources, modules)
        if wanted == "binascii":
            shim = types.ModuleType("binascii")
            shim.b2a_hex = lambda text: binascii.b2a_hex(text.encode("latin-1")).decode()
            return shim
        if wanted.startswith("autobahn.websocket."):
            shim = types.ModuleType(wanted)
            shim.Utf8Validator, shim.WebSocketProtocol = Utf8Validator, WebSocketProtocol
            return shim
        return __import__(wanted, *arguments, **named)

    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_module}
    exec(compile(tree, f"<{name}>", "exec"), module.__dict__)
    return module


# The suite's base class, once the cases are loaded.
Case = None


def load():
    """All cases but those of compression, which need a compressing peer: id and class, in the suite's order."""
    folder = None
    for file in importlib.metadata.files("autobahntestsuite"):
        if file.name == "case.py":
            folder = Path(file.locate()).parent
    sources = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    modules, found = {}, {}
    for name in sorted(sources):
        if name in LEFT_OUT:
            continue
        module = load_module(name, sources, modules)
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        # Generated cases are in lists, some of them in lists of lists.
        lists = [value for value in vars(module).values() if isinstance(value, list)]
        while lists:
            for value in lists.pop():
                if isinstance(value, list):
                    lists.append(value)
                elif isinstance(value, type):
                    classes.append(value)
        for case in classes:
            matched = NAME.match(case.__name__)
            if matched:
                found[matched[1].replace("_", ".")] = case
    global Case
    Case = modules["case"].Case
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


if __name__ == "__main__":
    for case_id, case in load().items():
        print(case_id, " ".join(case.DESCRIPTION.split("<")[0].split()))
    sys.exit()
