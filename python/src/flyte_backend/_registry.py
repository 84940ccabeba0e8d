"""Which plugins there are."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

from ._binding import Bound
from ._errors import FlyteBackendError, NotFound, PluginError
from ._plugin import BackendPluginBase

ENTRY_POINTS = "flyte_backend.plugins"
#: The plugins that come with this package.
OWN = ("bigquery", "databricks", "snowflake")


def check_overlaps(plugin: Bound, others: Iterable[Bound]) -> None:
    for other in others:
        if plugin.overlaps(other):
            if plugin.where == other.where:
                raise PluginError(
                    f"{plugin.where} is registered twice for task type {plugin.task_type!r} in version {plugin.version}: "
                    "register it once, or give one of them another version"
                )
            raise PluginError(
                f"two plugins serve task type {plugin.task_type!r} in version {plugin.version} and the same task type version: "
                f"{other.where} and {plugin.where}; give one of them another version"
            )


@contextlib.contextmanager
def importing(module: str, what: str) -> Iterator[None]:
    """Whatever goes wrong with the import of somebody else's module is a :class:`PluginError` with one line that says what.
    Modules of the working directory can be imported from then on."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        yield
    except FlyteBackendError:
        raise
    except ModuleNotFoundError as e:
        if e.name and (module == e.name or module.startswith(e.name + ".")):
            raise PluginError(f"there is no module {e.name!r} on the path{_meant(module)}") from e
        raise PluginError(f"{what} cannot be imported: it needs the module {e.name!r}") from e
    except (Exception, SystemExit) as e:
        raise PluginError(f"{what} cannot be imported: {type(e).__name__}: {_one_line(e)}{_place(e)}") from e


def _meant(module: str) -> str:
    """What would have been right, as far as it can be told."""
    named = module.removesuffix(".py").strip("./").replace("/", ".")
    if named != module and named:
        return f"; a module is named as in an import, such as {named}"
    if module == "flytekitplugins" or module.startswith("flytekitplugins."):
        return (
            f"; pip install {'-'.join(module.split('.')[:2]) if '.' in module else 'flytekitplugins-bigquery, or another one'}"
        )
    if module in OWN:
        return f"; the plugin that comes with this package is {__package__}.plugins.{module}"
    return f" (the working directory, {os.getcwd()}, is on it)"


class BackendPluginRegistry:
    """The plugins of this process. What a module registers when it is imported, ``flyte-backend-serve`` serves."""

    _bound: list[Bound] = []

    @classmethod
    def register(cls, plugin: BackendPluginBase) -> None:
        """Add a plugin. Raises :class:`PluginError` for one that cannot be served, and for a second one of the same task type,
        plugin version and task type version."""
        bound = Bound(plugin)
        check_overlaps(bound, cls._bound)
        cls._bound.append(bound)

    @classmethod
    def plugins(cls) -> tuple[BackendPluginBase, ...]:
        """What is registered, in order."""
        return tuple(bound.plugin for bound in cls._bound)

    @classmethod
    def clear(cls) -> None:
        """Forget all of them."""
        cls._bound.clear()

    @classmethod
    @contextlib.contextmanager
    def isolated(cls) -> Iterator[None]:
        """An empty registry for as long as the block lasts, for tests."""
        kept, cls._bound = cls._bound, []
        try:
            yield
        finally:
            cls._bound = kept

    @classmethod
    def load(cls, name: str) -> None:
        """Import a module that registers plugins, or ``module:attribute``: a plugin, a list of them, or a function that gives
        either. Raises :class:`PluginError` when it cannot, with one line that says why."""
        module, _, attribute = name.partition(":")
        if not module:
            raise PluginError(f"{name!r} names no module; a plugin is named MODULE or MODULE:NAME")
        before = len(cls._bound)
        with importing(module, f"plugin module {name!r}"):
            if module.startswith(".") or "/" in module:
                raise PluginError(f"there is no module {module!r} on the path{_meant(module)}")
            found: Any = importlib.import_module(module)
            for part in attribute.split(".") if attribute else ():
                if not hasattr(found, part):
                    raise PluginError(f"plugin module {module!r} has no {attribute!r}{_plugins_in(found)}")
                found = getattr(found, part)
            if attribute:
                cls._add(found, name)
        if not attribute and len(cls._bound) == before and not any(b.where.startswith(module) for b in cls._bound):
            raise PluginError(
                f"module {module!r} registered no plugin: it calls BackendPluginRegistry.register(…), or name {module}:PLUGIN"
                + (_meant(module) if module in OWN else "")
            )

    @classmethod
    def load_installed(cls) -> None:
        """Load what installed packages offer as entry points of the group ``flyte_backend.plugins``."""
        for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: (p.name, p.value)):
            try:
                found = point.load()
                if not hasattr(found, "__path__") and not _is_module(found):
                    cls._add(found, f"{point.name} ({point.value})")
            except FlyteBackendError:
                raise
            except (Exception, SystemExit) as e:  # it is somebody else's code
                raise PluginError(
                    f"the entry point {point.name!r} ({point.value}) cannot be loaded: {type(e).__name__}: {_one_line(e)}"
                ) from e

    @classmethod
    def _add(cls, found: Any, name: str) -> None:
        if isinstance(found, type) and any(type(plugin) is found for plugin in cls.plugins()):
            return  # its module has registered it
        if callable(found):
            found = found()
        for plugin in found if isinstance(found, (list, tuple)) else [found]:
            if not isinstance(plugin, BackendPluginBase):
                raise PluginError(
                    f"{name} is a {type(plugin).__name__}, and no plugin, list of plugins, or function that gives them"
                )
            if plugin not in cls.plugins():
                cls.register(plugin)


def _plugins_in(module: Any) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, BackendPluginBase)
        or isinstance(value, type)
        and issubclass(value, BackendPluginBase)
        and value.__module__ == getattr(module, "__name__", "")
    ]
    return f"; its plugins are {', '.join(names)}" if names else ""


def _is_module(found: Any) -> bool:
    return type(found).__name__ == "module"


def _place(e: BaseException) -> str:
    """The last line that ran of a file that is not installed. A syntax error tells it by itself."""
    if isinstance(e, SyntaxError):
        return ""
    installed = tuple({*sysconfig.get_paths().values(), os.path.dirname(__file__)})
    for frame in reversed(traceback.extract_tb(e.__traceback__)):
        if os.path.isfile(frame.filename) and not frame.filename.startswith(installed):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split())[:500]


class PluginSet:
    """The plugins of one service. It does not change."""

    def __init__(self, plugins: Sequence[BackendPluginBase]) -> None:
        self.bound: list[Bound] = []
        for plugin in plugins:
            bound = Bound(plugin)
            check_overlaps(bound, self.bound)
            self.bound.append(bound)
        if not self.bound:
            raise PluginError(
                "there is no plugin to serve: name a module that registers one (flyte-backend-serve --plugins MODULE), "
                f"or install a package that offers one (entry points {ENTRY_POINTS})"
            )

    def find(
        self, task_type: str, version: str, task_type_version: int, can: Callable[[Bound], bool], *, about_job: bool = False
    ) -> Bound:
        """The plugin for a task: of those of its type that can do what is asked, the version that the caller names, else the
        highest; one that names the template's version goes before one that takes any.

        A call about a job may leave the task type version out, since the job's plugin version is known: then one plugin that it
        can mean will do."""
        best: tuple[bool, list[tuple[int, int, str]]] | None = None
        found: Bound | None = None
        limited = []
        known = False
        for plugin in self.bound:
            if plugin.task_type != task_type or version and plugin.version != version:
                continue
            known = True
            if not can(plugin):
                continue
            exact = task_type_version in plugin.task_type_versions
            if not exact and plugin.task_type_versions:
                limited.append(plugin)
            elif best is None or (exact, plugin.order) > best:
                best, found = (exact, plugin.order), plugin
        if found is not None:
            return found
        if about_job and task_type_version == 0 and len(limited) == 1:
            return limited[0]
        shown = f"{task_type[:200]!r}" + (f" in version {version}" if version else "")
        if known:
            raise NotFound(
                f"the plugin for task type {shown} does not take this call for task type version {task_type_version}"
            )
        raise NotFound(f"this service has no plugin for task type {shown}")
