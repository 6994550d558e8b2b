"""From a command line to a composed configuration, with errors in plain language instead of Hydra's.

Every override is checked against the schema before Hydra composes, so that a mistake gives a one-line error.

    tree = compose(["model=videollava", "temperature=0.2"])
    config = check(tree)
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourstage import plugins
from fourstage.config import keys, studies, values
from fourstage.config.values import SettingError
from fourstage.credentials import keep
from fourstage.paths import shortened, too_long
from fourstage.plugins import conf_folder
from fourstage.text import is_storable

MOST_JOBS = 100_000  # of a sweep


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The tree that `overrides` compose, outside a Hydra run. Raises SettingError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    share_plugins_settings()
    check_command_line(overrides)
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            return as_tree(hydra_compose("config", [quote_where_needed(text) for text in overrides]))
    except Exception as error:
        if not from_hydra(error):
            raise
        raise SettingError(explain_hydra_error(error)) from error


def as_tree(cfg: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """A composed configuration as plain values."""
    from omegaconf import OmegaConf

    chosen = OmegaConf.masked_copy(cfg, [key for key in cfg if key not in without]) if without else cfg
    tree = OmegaConf.to_container(chosen, resolve=True)
    assert isinstance(tree, dict)
    if isinstance(uri := (tree.get("tracking") or {}).get("uri"), str):
        tree["tracking"]["uri"] = keep(uri)
    return {str(key): value for key, value in tree.items()}


def as_yaml(tree: Mapping[str, Any]) -> str:
    """Composed settings as they stand in a run's `config.yaml`."""
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(OmegaConf.create(dict(tree))))


def check_command_line(argv: Sequence[str]) -> None:
    """Raise SettingError for the first override that names no setting, or a value that it cannot have."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    if any(flag.startswith(("-sc", "--shell-completion", "-s")) for flag in argv):
        return  # half a setting is being completed
    if any(flag in ("-c", "--cfg") for flag in argv) and any(flag in ("-m", "--multirun") for flag in argv):
        raise SettingError("--cfg shows one composition, -m runs several: leave one of them out")
    sweeping = any(flag in ("-m", "--multirun") for flag in argv)
    parser = OverridesParser.create()
    for text in overrides_in(argv):
        if "=" not in text and not text.startswith("~"):
            raise SettingError(f"{shortened(text)!r} is not a setting: expected key=value, such as model=videollava")
        if not is_storable(text):
            raise SettingError(f"{shortened(text)!r}: expected a text in UTF-8")
        try:
            (override,) = parser.parse_overrides([quote_where_needed(text)])
        except OverrideParseException as error:
            quoted = f"; put a text with special characters in quotes: {shell_quoted(text)}" if len(text) < 1000 else ""
            raise SettingError(f"cannot read {shortened(text)!r}{quoted}") from error
        except ValueError as error:  # Python converts no integer of more than 4,300 digits
            raise SettingError(
                f"{shortened(text)}: a whole number of thousands of digits; give a smaller one"
            ) from error
        key = override.key_or_group
        if key in PLUGINS:
            for value in _values(override):
                check_plugin(key, str(value), argv)
            continue
        if key == "hydra" or key.startswith(("hydra.", "hydra/", "+hydra")):
            continue
        if key == studies.GROUP:
            _check_study(text, override, argv)
            continue
        if override.is_sweep_override() and not sweeping:
            quoted = f", or put the text in quotes: {shell_quoted(text)}" if keys.is_text(key) else ""
            raise SettingError(f"{text!r} gives several values: add -m to run each of them{quoted}")
        for value in _values(override):
            keys.check_override(key, value, conf_folder())


def _check_study(text: str, override: Any, argv: Sequence[str]) -> None:
    """Raise SettingError for a study that is not there, is not asked for as one, or sweeps what is no setting."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    names = [str(name) for name in _values(override)]
    if len(names) != 1:
        raise SettingError(f"{text!r}: run one study at a time")
    study = studies.find_study(names[0], study_folders(argv))
    if not override.is_add():
        raise SettingError(f"a study is added to what is composed: write +{studies.GROUP}={study.name}")
    looking = ("-m", "--multirun", "-c", "--cfg", "-h", "--help", "--hydra-help", "-i", "--info")
    if not any(text in looking for text in argv):
        raise SettingError(f"{text!r} is a study, which sweeps {', '.join(study.params)}: add -m")
    parser = OverridesParser.create()
    for key, written in study.params.items():
        if key.startswith("hydra"):
            continue
        (swept,) = parser.parse_overrides([quote_where_needed(f"{key}={written}")])
        for value in _values(swept):
            try:
                keys.check_override(key, value, conf_folder())
            except SettingError as error:
                raise SettingError(f"{study.path}: {error}") from error


def study_folders(argv: Sequence[str] = ()) -> list[Path]:
    """Where studies are looked for: those that are shipped, then the user's own."""
    return [conf_folder() / studies.GROUP, _own_folder(argv) / studies.GROUP]


def with_own_studies(argv: Sequence[str]) -> list[str]:
    """The command line, with the flag that has Hydra find a study of the user's own where one is asked for."""
    names = [text.partition("=")[2] for text in argv if text.lstrip("+").startswith(f"{studies.GROUP}=")]
    shipped = studies.list_studies([conf_folder() / studies.GROUP])
    if all(name in shipped for name in names) or any(text.startswith(("--config-dir", "-cd")) for text in argv):
        return list(argv)
    return [*argv, "--config-dir", str(Path.cwd())]


def _own_folder(argv: Sequence[str]) -> Path:
    """The folder that --config-dir names, else the one that the user is in."""
    for text, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = text.partition("=")
        if flag in ("--config-dir", "-cd"):
            return Path(value if equals else following)
    return Path.cwd()


# who starts the jobs of a sweep and who chooses them: the extra that brings it, and the package that Hydra finds
PLUGINS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "hydra/launcher": {
        "joblib": ("joblib", "hydra_joblib_launcher"),
        "submitit_local": ("submitit", "hydra_submitit_launcher"),
        "submitit_slurm": ("submitit", "hydra_submitit_launcher"),
        "ray": ("ray", "hydra_ray_launcher"),
        "ray_aws": ("ray", "hydra_ray_launcher"),
    },
    "hydra/sweeper": {"optuna": ("optuna", "hydra_optuna_sweeper")},
}


def check_plugin(group: str, name: str, argv: Sequence[str]) -> None:
    """Raise SettingError for a launcher or sweeper that is not installed or does not exist, or has nothing to do."""
    known = name in PLUGINS[group] and _plugin_is_installed(PLUGINS[group][name][1])
    elsewhere = any(flag in ("-cd", "--config-dir") or flag.startswith("--config-dir=") for flag in argv)
    if not known and (name in PLUGINS[group] or not elsewhere) and name not in _options_that_hydra_knows(group):
        raise SettingError(explain_plugin(group, name))
    if name != "basic" and not any(
        text in ("-m", "--multirun", "-c", "--cfg", "-i", "--info")
        or text.startswith(("--cfg=", "--info=", "hydra.mode="))
        for text in argv
    ):
        raise SettingError(f"{group}={name} is for the jobs of a sweep: add -m")


def explain_plugin(group: str, name: str) -> str:
    """Why there is no launcher or sweeper `name`, in one line."""
    if name in PLUGINS[group]:
        return f"{group}={name} needs an extra: pip install 'fourstage[{PLUGINS[group][name][0]}]'"
    options = sorted({*_options_that_hydra_knows(group), *PLUGINS[group]})
    return f"unknown {group} {name!r}; {values.suggest(name, options)}"


def _plugin_is_installed(package: str) -> bool:
    """Whether Hydra would find it; nothing of it is imported."""
    try:
        return importlib.util.find_spec(f"hydra_plugins.{package}") is not None
    except ModuleNotFoundError:  # no plugin at all
        return False


def _options_that_hydra_knows(group: str) -> list[str]:
    """The options of `hydra/launcher` or `hydra/sweeper` that plugins and `conf/` bring, other people's too."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the plugins, which enter themselves in the store
    stored = [name.removesuffix(".yaml") for name in ConfigStore.instance().list(group) if name.endswith(".yaml")]
    return [*stored, *(path.stem for path in (conf_folder() / group).glob("*.yaml"))]


def share_plugins_settings() -> None:
    """Let Hydra's looks at the options share one store of the plugins' settings.

    Hydra copies it for each look, 97 times for `--help`, and each launcher that is installed makes it larger: a
    second for all of them. What it takes out of the store it copies once more, so nothing is changed in it.
    """
    from hydra.core.config_store import ConfigStore

    offer_plugins()
    setattr(ConfigStore, "__deepcopy__", lambda self, memo: self)  # noqa: B010 (the class declares none)


def offer_plugins() -> None:
    """Let Hydra compose what has no file in `conf/`: models, dataset formats and engines of other packages.

    They compose to their settings' defaults, and so complete and are listed by `--help` like the files.
    """
    from hydra.core.config_store import ConfigStore

    for group, kind in (*((kind, kind) for kind in plugins.CHOSEN), ("generation", "model")):
        for name in plugins.names(kind):
            if not (conf_folder() / group / f"{name}.yaml").is_file():
                package = "_global_" if group == "generation" else None
                node = keys.defaults(group, name)
                ConfigStore.instance().store(name, node, group, package, provider="fourstage")


def shell_quoted(text: str) -> str:
    """`key=value` as it can be typed in a shell, the value quoted for Hydra."""
    key, _, value = text.partition("=")
    return shlex.quote(f"{key}={_quoted(value)}")


def quote_where_needed(text: str) -> str:
    """The override `text`, with a free text's values in quotes where Hydra would make a number of them (1.50, 2024e5,
    true) or cannot read them (~/data). One that is in quotes already, and null, stay."""
    key, _, value = text.partition("=")
    if not keys.is_text(key.lstrip("+")):
        return text
    if function := re.fullmatch(r"\s*(choice|shuffle)\((.*)\)\s*", value, re.DOTALL):
        return f"{key}={function[1]}({_quote_elements(function[2])})"
    return f"{key}={_quote_elements(value)}"


# a text in quotes, an escape, an interpolation, a bracket, or what separates the values of a sweep
_PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|[\[{(]|[\]})]|,|[^'"\\\[{(\]}),]+|.""", re.DOTALL)


def _quote_elements(values: str) -> str:
    """Values with commas between them, those in quotes that need them."""
    elements, depth = [""], 0
    for piece in _PIECES.findall(values):
        depth += (piece in "[{(") - (piece in "]})")
        if piece == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += piece
    return ",".join(_quoted(element.strip()) if _needs_quotes(element.strip()) else element for element in elements)


def _needs_quotes(element: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    if "~" in element and element[0] not in "'\"[{(":
        return True
    if not re.match(r"[+-]?(\.?\d|inf$|nan$)|true$|false$", element, re.IGNORECASE):
        return False
    try:
        return isinstance(OverridesParser.create().parse_rule(element, "primitive"), int | float)
    except OverrideParseException:
        return False
    except ValueError:  # a number of more digits than Python converts
        return True


def _quoted(value: str) -> str:
    """A text in the quotes of Hydra's grammar, where backslashes are doubled before a quote alone."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{escaped[len(escaped) - trailing :]}"'


def quote_study_texts(cfg: Any) -> None:
    """`quote_where_needed` for what a study sweeps, in a composition with Hydra's part."""
    from omegaconf import open_dict

    params = cfg.hydra.sweeper.get("params") or {}
    with open_dict(cfg):
        for key, value in list(params.items()):
            if keys.is_text(str(key)) and value is not None:
                written = str(value).lower() if isinstance(value, bool) else str(value)
                params[key] = quote_where_needed(f"{key}={written}").partition("=")[2]


def check_working_folder(hydra: Any) -> None:
    """Raise SettingError where Hydra would let a run begin in another folder than the one that paths are meant from."""
    if hydra.job.chdir:
        raise SettingError(
            "hydra.job.chdir=true: paths of data and store are meant from the folder that the command begins in; "
            "leave it out (hydra.run.dir says where a run's own files go)"
        )


def check_job_folders(cfg: Any, jobs: Sequence[Sequence[str]]) -> None:
    """Raise SettingError where jobs of a sweep could not have the folders that hydra.sweep.subdir gives them."""
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    sweep: Any = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    if sweep["subdir"] == "${hydra.job.num}":
        return
    given: dict[str, int] = {}
    for number, overrides in enumerate(jobs):
        of_job = GlobalHydra.instance().config_loader().load_sweep_config(cfg, list(overrides))
        with open_dict(of_job):
            of_job.hydra.job.id = of_job.hydra.job.num = number
        folder = str(of_job.hydra.sweep.subdir)
        advice = "leave it out, or use hydra.sweep.subdir='${hydra.job.num}'"
        if fault := too_long(str(Path(of_job.hydra.sweep.dir, folder).absolute())):
            raise SettingError(f"hydra.sweep.subdir: the folder of job {number} {fault}; {advice}")
        if (other := given.setdefault(folder, number)) != number:
            raise SettingError(f"hydra.sweep.subdir={folder}: jobs {other} and {number} would share it; {advice}")


def swept_settings(cfg: Any) -> dict[str, str]:
    """What a sweep varies, from its composition with Hydra's part: setting → its values, as they were written."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(_loader()).parse_overrides(_sweep_overrides(cfg))
    own = (
        {str(key) for key in cfg.hydra.sweeper.get("params") or {}}
        if "basic" not in cfg.hydra.sweeper._target_.lower()
        else set()
    )
    return {
        override.key_or_group: str(override.get_value_string() if override.value_type else override.value())
        for override in parsed
        if override.is_sweep_override() or override.key_or_group in own
    }


def study_of(cfg: Any) -> str | None:
    """The name of the study that a composition with Hydra's part begins from."""
    name = cfg.hydra.runtime.choices.get("experiments")
    return None if name is None else str(name)


def job_overrides(cfg: Any) -> tuple[tuple[str, ...], ...] | None:
    """The overrides of each job of Hydra's own sweeper; None for a sweeper that chooses its jobs as it goes."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if "basic" not in cfg.hydra.sweeper._target_.lower():
        return None
    parsed = OverridesParser.create(_loader()).parse_overrides(_sweep_overrides(cfg))
    return tuple(tuple(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch)


def _sweep_overrides(cfg: Any) -> list[str]:
    """Those of the study or of the sweeper's settings, then those of the command line."""
    params = cfg.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in params.items()] + [str(text) for text in cfg.hydra.overrides.task]


HYDRAS = ("hydra.", "omegaconf.", "antlr4.")


def _loader() -> Any:
    """Hydra's reader of conf/, which glob() asks for the options of a group; None outside a Hydra run."""
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance()
    return running.config_loader() if running.is_initialized() else None


def from_hydra(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised it, or what they called did: then it is about the command line."""
    if type(error).__module__.startswith(HYDRAS):
        return True
    place, last = error.__traceback__, ""
    while place is not None:
        module = str(place.tb_frame.f_globals.get("__name__", ""))
        last = module if module.startswith((*HYDRAS, "fourstage")) else last
        place = place.tb_next
    return last.startswith(HYDRAS)


def explain_hydra_error(error: Exception) -> str:
    """What Hydra could not compose, in one line."""
    if match := re.search(r"Could not (?:override|append|delete|resolve)[^']*'([^']+)'", str(error)):
        key = match[1]
        group = key.partition(".")[0]
        owner = keys.owner(key)
        whose = f"it belongs to {owner}" if owner else "fourstage run --cfg job shows what is"
        return f"{key!r} is no setting of the {group} that was chosen; {whose}"
    if match := re.search(r"Could not find '(hydra/(?:launcher|sweeper))/([^']+)'", str(error)):
        return explain_plugin(match[1], match[2])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not type(error).__module__.startswith(HYDRAS):  # it trips over a value that it does not check
        reason = f"{type(error).__name__}{': ' if lines else ''}{'; '.join(lines[:1])}"
        return f"Hydra cannot use these settings ({reason}); look at those of groups and hydra.*"
    return "; ".join(lines[:2]) or type(error).__name__


FLAGS_WITH_VALUE = ("-c", "--cfg", "-p", "--package", "-i", "--info", "-cn", "--config-name", "-cp", "--config-path",
                    "-cd", "--config-dir", "--experimental-rerun")  # fmt: skip


def overrides_in(argv: Sequence[str]) -> list[str]:
    """The arguments that are settings, without Hydra's flags and their values."""
    return [
        text
        for before, text in zip(["", *argv], argv, strict=False)
        if not text.startswith("-") and before not in FLAGS_WITH_VALUE
    ]


def _values(override: Any) -> list[Any]:
    """The values that an override names, one or several."""
    if override.is_delete():
        return []
    value = override._value
    if type(value).__name__ == "Glob":  # of Hydra: it chooses among files, and a plain setting has none
        if override.key_or_group in keys.GROUPS:
            return []
        raise SettingError(f"{shortened(str(override.input_line))!r}: glob() chooses among the options of a group")
    if override.is_choice_sweep():
        return [_plain(item) for item in value.list]
    if override.is_range_sweep():
        if abs(value.stop - value.start) > MOST_JOBS * abs(value.step or 1):
            raise SettingError(f"{shortened(str(override.input_line))!r} gives over {MOST_JOBS:,} values; give fewer")
        return list(value.range())
    return [] if override.is_sweep_override() else [_plain(override.value())]


def _plain(value: Any) -> Any:
    """A parsed value without Hydra's quoting."""
    return getattr(value, "text", value)
