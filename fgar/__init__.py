__version__ = "0.1.0"

# Written by hand (nbdev exports modules, not packages); explained in nbs/00_core.ipynb, "The front door".
import importlib, importlib.util

_HOMES = {'core': ['ActionModel', 'Prediction', 'create', 'register', 'spec'], 'train': ['TrainConfig'], 'evaluate': ['predict']}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

def __getattr__(name):
    if name in _HOME: return getattr(importlib.import_module(f'fgar.{_HOME[name]}'), name)
    if not name.startswith('_') and importlib.util.find_spec(f'fgar.{name}'): return importlib.import_module(f'fgar.{name}')
    raise AttributeError(f"module 'fgar' has no attribute {name!r}")

def __dir__(): return sorted([*globals(), *_HOME, 'models', 'train'])
