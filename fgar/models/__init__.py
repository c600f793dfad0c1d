# Written by hand; explained in nbs/00_core.ipynb, "The front door": calling the package lists the registered systems.
from fgar import core
core.callable_module(__name__, core.models)
