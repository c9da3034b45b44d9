"""One mistake a case: what replaces what in a valid file, with `§` where the error must point, and what it must say."""

# ruff: noqa: E501 - a table reads best with one line a case

VALID = """\
version: 1
default: v1
models:
  v1: {target: "dns:///worker-v1:50061"}
  v2: {target: ["127.0.0.1:50071", "unix:/run/v2.sock"]}
experiments:
  - name: e
    traffic: 50
    salt: s
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: one, model: v2, weight: 30}
"""
SALT = "    salt: s\n"
GROUPS = VALID[VALID.index("groups:") :]
E, G = "experiments[0]", "experiments[0].groups"
PERCENT = "must be a number from 0 to 100 with at most two decimal places, not "
QUOTES = 'is a number, and text is needed; in quotes: "'
ADDRESS = "must be `dns:///host:port`, `host:port` (port 1 to 65535) or `unix:path`"
ONE_CONTROL = "exactly one group must be named `control` or have `control: true`; "

# Name: (old, new, key path, beginning of the message).
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "wrong version": ("version: 1", "version: §2", "version", "must be 1, not `2`"),
    "version as text": ("version: 1", "version: §'1'", "version", "must be 1, not `1`"),
    "no default": (
        "version: 1\ndefault: v1",
        "§version: 1",
        "default",
        "is missing: model version that serves everyone",
    ),
    "unknown default": ("default: v1", "default: §v3", "default", "`v3` is not one of the models; allowed: v1, v2"),
    "unknown key": ("salt: s", "§sallt: s", f"{E}.sallt", "is not a known key; did you mean `salt`?"),
    "unknown top key": (
        "default",
        "§experiment: 1\ndefault",
        "experiment",
        "is not a known key; did you mean `experiments",
    ),
    "merge key": (
        "{name: one, ",
        "{§<<: 1, name: one, ",
        f'{G}[1]["<<"]',
        "is not a known key; allowed: control, model",
    ),
    "duplicate key": ("salt: s", "§name: f", f"{E}.name", "is given twice; the first one is in line 7"),
    "window backwards": (
        SALT,
        "    exclude: [§{from: 2026-11-02T00:00:00Z, to: 2026-11-02T01:00:00+01:00, why: x}]\n",
        f"{E}.exclude[0]",
        "`from` 2026-11-02T00:00:00Z must be before `to` 2026-11-02T00:00:00Z",
    ),
    "window without a zone": (
        SALT,
        "    exclude: [{from: 2026-11-02T00:00:00Z, to: §2026-11-03T00:00:00, why: x}]\n",
        f"{E}.exclude[0].to",
        "`2026-11-03T00:00:00` must be a time with its zone",
    ),
    "window without a reason": (
        SALT,
        "    exclude: [§{from: 2026-11-02T00:00:00Z, to: 2026-11-03T00:00:00Z}]\n",
        f"{E}.exclude[0].why",
        "is missing: what happened; the report shows it",
    ),
    "windows that overlap": (
        SALT,
        "    exclude:\n      - {from: 2026-11-02T00:00:00Z, to: 2026-11-04T00:00:00Z, why: x}\n      - §{from: 2026-11-03T00:00:00Z, to: 2026-11-05T00:00:00Z, why: y}\n",
        f"{E}.exclude[1]",
        "2026-11-03T00:00:00Z to 2026-11-05T00:00:00Z overlaps another window, 2026-11-02T00:00:00Z to 2026-11-04T",
    ),
    "window before the ramp": (
        SALT,
        "    ramp: [{at: 2026-11-08T00:00:00Z, control: 70, one: 30}]\n    exclude: [§{from: 2026-11-02T00:00:00Z, to: 2026-11-08T00:00:00Z, why: x}]\n",
        f"{E}.exclude[0]",
        "ends before the first ramp row at 2026-11-08T00:00:00Z",
    ),
    "autopilot steps down": (
        SALT,
        "    autopilot: {ramp: {traffic: [5, §5]}}\n",
        f"{E}.autopilot.ramp.traffic[1]",
        "must be above the step before, 5",
    ),
    "autopilot beyond the slice": (
        SALT,
        "    autopilot: {ramp: {traffic: [5, §60]}}\n",
        f"{E}.autopilot.ramp.traffic[1]",
        "60 is more than the experiment's own `traffic` of 50",
    ),
    "outages of a response time": (
        SALT,
        "    metrics: {guardrails: [{name: response_time_p95, outages_per_day: §2}]}\n",
        f"{E}.metrics.guardrails[0].outages_per_day",
        "is allowed for error_rate only",
    ),
    "duplicate user": (SALT, "    overrides: {u: one, §u: one}\n", f"{E}.overrides.u", "is given twice"),
    "list as key": ("salt: s", "? §[a]\n    : b", E, "has a list or mapping as a key; keys are text"),
    "sum": (
        "- {name: control, model: v1, weight: 70}",
        "§- {name: control, model: v1, weight: 69.5}",
        G,
        "weights must sum to 100 percent: control 69.5, one 30, which is 99.5 together",
    ),
    "weight as text": ("weight: 30", 'weight: §"30"', f"{G}[1].weight", PERCENT + "`30`"),
    "three decimals": ("weight: 30", "weight: §30.001", f"{G}[1].weight", PERCENT + "`30.001`"),
    "negative": ("weight: 30", "weight: §-30", f"{G}[1].weight", PERCENT + "`-30`"),
    "infinite": ("weight: 30", "weight: §.inf", f"{G}[1].weight", PERCENT + "`.inf`"),
    "exponent": ("weight: 30", "weight: §3e1", f"{G}[1].weight", PERCENT + "`3e1`"),
    "weight is a list": ("weight: 30", "weight: §[30]", f"{G}[1].weight", PERCENT + "a list"),
    "over 100": ("traffic: 50", "traffic: §100.01", f"{E}.traffic", PERCENT + "`100.01`"),
    "holdout over 100": ("models:", "holdout: {percent: §101}\nmodels:", "holdout.percent", PERCENT + "`101`"),
    "unknown model": (
        "model: v2",
        "model: §v22",
        f"{G}[1].model",
        "`v22` is not one of the models; did you mean `v2`?",
    ),
    "model as number": ("model: v2", "model: §1.10", f"{G}[1].model", f'`1.10` {QUOTES}1.10"'),
    "models key as number": (
        "models:\n",
        "models:\n  §1.10: {target: 'h:1'}\n",
        'models["1.10"]',
        f'`1.10` {QUOTES}1.10"',
    ),
    "no target": ('v1: {target: "dns:///worker-v1:50061"}', "v1: §{}", "models.v1.target", "is missing: address"),
    "boolean as name": (
        "name: one",
        "name: §true",
        f"{G}[1].name",
        "`true` is true or false, and text is needed",
    ),
    "no boolean": ("salt: s", "enabled: §no", f"{E}.enabled", "must be true or false, not `no`"),
    "loud boolean": ("salt: s", "enabled: §True", f"{E}.enabled", "must be true or false, not `True`"),
    "nothing": ("salt: s", "owner: §~", f"{E}.owner", "must be text, not nothing"),
    "experiments nothing": (
        VALID[VALID.index("experiments:") :],
        "experiments: §~",
        "experiments",
        "must be a list, not nothing; write [] for none",
    ),
    "no control": ("- {name: control", "§- {name: base", G, ONE_CONTROL + "none is"),
    "same group twice": (
        "name: one",
        "name: §control",
        f"{G}[1].name",
        "`control` is already the name of another group",
    ),
    "reserved group": ("name: one", "name: §at", f"{G}[1].name", "`at` is a key of ramp rows; choose another name"),
    "bad name": ("name: e\n", "name: §e/1\n", f"{E}.name", "`e/1` must be 1 to 64 letters, digits"),
    "long value": ("name: e\n", f"name: §{'x' * 65}\n", f"{E}.name", f"`{'x' * 64}…` must be 1 to 64 letters, digits"),
    "no groups": (
        VALID[VALID.index("groups:") :],
        "groups: §[]",
        G,
        "is empty; an experiment needs at least one group",
    ),
    "url": ('"127.0.0.1:50071"', "§http://x", "models.v2.target[0]", f"`http://x` {ADDRESS}"),
    "port": ('"127.0.0.1:50071"', '§"h:65536"', "models.v2.target[0]", f"`h:65536` {ADDRESS}"),
    "no protocol": (
        '"dns:///worker-v1:50061"',
        '"h:1", protocol: §http',
        "models.v1.protocol",
        "`http` is not allowed; allowed: abfleet, oip",
    ),
    "no model of a server": (
        'v1: {target: "dns:///worker-v1:50061"}',
        'v1: §{target: "h:1", protocol: oip}',
        "models.v1",
        "the protocol `oip` needs `model`, the name that the servers have for the model",
    ),
    "model of a worker": (
        '"dns:///worker-v1:50061"',
        '"h:1", §model: ranker',
        "models.v1.model",
        "is allowed with `protocol: oip` only",
    ),
    "version of a worker": (
        '"dns:///worker-v1:50061"',
        '"h:1", protocol: abfleet, §version: 3',
        "models.v1.version",
        "is allowed with `protocol: oip` only",
    ),
    "version as a broken number": (
        '"dns:///worker-v1:50061"',
        '"h:1", protocol: oip, model: m, version: §1.5',
        "models.v1.version",
        f'`1.5` {QUOTES}1.5"',
    ),
    "target twice": (
        '"unix:/run/v2.sock"',
        '§"127.0.0.1:50071"',
        "models.v2.target[1]",
        "`127.0.0.1:50071` is given twice",
    ),
    "no targets": (
        '["127.0.0.1:50071", "unix:/run/v2.sock"]',
        "§[]",
        "models.v2.target",
        "is empty; it needs at least one",
    ),
    "holdout salt": (
        "salt: s",
        "salt: §holdout",
        f"{E}.salt",
        "`holdout` is also the salt of the holdout; each needs its own",
    ),
    "layer salt": (
        "salt: s",
        "salt: §layer/x",
        f"{E}.salt",
        "`layer/x` begins with `layer/`, which is reserved for layers",
    ),
    "salt with control character": (
        "salt: s",
        'salt: §"a\\x00"',
        f"{E}.salt",
        "`a�` must be 1 to 128 characters, and no",
    ),
    "override of no group": (
        SALT,
        "    overrides: {u: §on}\n",
        f"{E}.overrides.u",
        "`on` is not a group of the experiment; di",
    ),
    "override by number": (SALT, "    overrides: {§42: one}\n", f"{E}.overrides.42", f'`42` {QUOTES}42"'),
    "override too long": (
        SALT,
        f"    overrides: {{§{'u' * 257}: one}}\n",
        f'{E}.overrides["{"u" * 64}…"]',
        "the user id must be 1 to 256 bytes of UTF-8, not 257",
    ),
    "override with a tab": (
        SALT,
        '    overrides: {§"a\\tb": one}\n',
        f'{E}.overrides["a�b"]',
        "the user id must hold no",
    ),
    "empty audience": (SALT, "    audience: §{}\n", f"{E}.audience", "is empty; leave it out to take everyone"),
    "audience empty list": (
        SALT,
        "    audience: {a: §[]}\n",
        f"{E}.audience.a",
        "is an empty list, which no user matches; list at least one value",
    ),
    "audience backwards": (
        SALT,
        "    audience: {a: §{min: 2, max: 1}}\n",
        f"{E}.audience.a",
        "`min` 2 is above `max` 1",
    ),
    "audience float": (SALT, "    audience: {a: §1.10}\n", f"{E}.audience.a", f'`1.10` {QUOTES}1.10"'),
    "audience code": (
        SALT,
        "    audience: {a: {max: 1, §gt: 1}}\n",
        f"{E}.audience.a.gt",
        "is not a known key; allowed: max, m",
    ),
    "audience nothing asked": (
        SALT,
        "    audience: {a: §{}}\n",
        f"{E}.audience.a",
        "is empty; give `min`, `max` or `present`",
    ),
    "audience bound": (SALT, "    audience: {a: {min: §one}}\n", f"{E}.audience.a.min", "must be a number, not `one`"),
    "ramp day only": (
        SALT,
        "    ramp: [{at: §2026-11-01, control: 70, one: 30}]\n",
        f"{E}.ramp[0].at",
        "`2026-11-01` must be a time with its zone, such as",
    ),
    "ramp no zone": (
        SALT,
        "    ramp: [{at: §2026-11-01T00:00:00, control: 70, one: 30}]\n",
        f"{E}.ramp[0].at",
        "`2026-11-01T00:00:00` must be a time with its zone",
    ),
    "ramp no such day": (
        SALT,
        "    ramp: [{at: §2026-02-30T00:00:00Z, control: 70, one: 30}]\n",
        f"{E}.ramp[0].at",
        "`2026-02-30T00:00:00Z` is not a date and time that exists",
    ),
    "ramp without time": (
        SALT,
        "    ramp: [§{control: 70, one: 30}]\n",
        f"{E}.ramp[0].at",
        "is missing: when the row takes",
    ),
    "ramp sum": (
        SALT,
        "    ramp: [§{at: 2026-11-01T00:00:00Z, control: 70}]\n",
        f"{E}.ramp[0]",
        "shares must sum to 100 percent: control 70, one 0, which is 70 together",
    ),
    "ramp unlike weights": (
        SALT,
        "    ramp: [§{at: 2026-11-01T00:00:00Z, control: 60, one: 40}]\n",
        f"{E}.ramp[0]",
        "the last row and the groups' weights must be equal; here: control 60, one 40",
    ),
    "ramp unknown group": (
        SALT,
        "    ramp: [{at: 2026-11-01T00:00:00Z, control: 70, one: 30, §ones: 0}]\n",
        f"{E}.ramp[0].ones",
        "is not a known key; did you mean `one`?",
    ),
    "ramp over traffic": (
        SALT,
        "    ramp: [{at: 2026-11-01T00:00:00Z, traffic: §51, control: 70, one: 30}]\n",
        f"{E}.ramp[0].traffic",
        "51 is more than the experiment's own `traffic` of 50",
    ),
    "ramp backwards": (
        SALT,
        "    ramp:\n    - {at: 2026-11-01T01:00:00Z, control: 70, one: 30}\n    - §{at: 2026-11-01T02:00:00+01:00, control: 70, one: 30}\n",
        f"{E}.ramp[1].at",
        "must be later than the time of the row above",
    ),
    "metric": (
        SALT,
        "    metrics: {primary: §crt}\n",
        f"{E}.metrics.primary",
        "`crt` is not a metric; did you mean `ctr`?",
    ),
    "metric that cannot judge": (
        SALT,
        "    metrics: {guardrails: [§fallback_rate]}\n",
        f"{E}.metrics.guardrails[0]",
        "`fallback_rate` cannot be a primary metric or a guardrail; it may be one of `secondary`",
    ),
    "guardrail twice": (
        SALT,
        "    metrics: {guardrails: [ctr, §ctr]}\n",
        f"{E}.metrics.guardrails[1]",
        "`ctr` is given twi",
    ),
    "threshold": (
        SALT,
        "    metrics: {guardrails: [{name: ctr, threshold_ms: §5}]}\n",
        f"{E}.metrics.guardrails[0].threshold_ms",
        "is allowed for response times only",
    ),
    "points": (
        SALT,
        "    metrics: {guardrails: [{name: ctr, points: §0.01}]}\n",
        f"{E}.metrics.guardrails[0].points",
        "is allowed for `error_rate` only",
    ),
    "points above all users": (
        SALT,
        "    metrics: {guardrails: [{name: error_rate, points: §2}]}\n",
        f"{E}.metrics.guardrails[0].points",
        "must be a share of users above 0 and below 1 (0.01 is 1 in 100), not `2`",
    ),
    "margin": (
        SALT,
        "    metrics: {guardrails: [{name: ctr, margin: §0}]}\n",
        f"{E}.metrics.guardrails[0].margin",
        "must be a relative change above 0 and below 10 (0.10 is 10 %), not `0`",
    ),
    "power": (SALT, "    plan: {power: §80}\n", f"{E}.plan.power", "must be a probability from 0.5 to 0.99, not `80`"),
    "horizon": (SALT, "    plan: {horizon: §28}\n", f"{E}.plan.horizon", f'`28` {QUOTES}28"'),
    "duration": (
        SALT,
        "    plan: {horizon: §28 days}\n",
        f"{E}.plan.horizon",
        "`28 days` must be a duration in seconds, minutes, hours",
    ),
    "minimum": (SALT, "    plan: {minimum: §5w}\n", f"{E}.plan.minimum", "is longer than the `horizon`"),
    "list for mapping": (
        "models:",
        "holdout: §[]\nmodels:",
        "holdout",
        "must be a mapping of keys to values, not a list",
    ),
    "mapping for list": (
        "models:",
        "log_attributes: §{a: b}\nmodels:",
        "log_attributes",
        "must be a list, not a mapping",
    ),
    "log attribute twice": ("models:", "log_attributes: [a, §a]\nmodels:", "log_attributes[1]", "`a` is given twice"),
    "audience of too many": (
        SALT,
        "    audience: §{" + ", ".join(f"a{i}: x" for i in range(33)) + "}\n",
        f"{E}.audience",
        "has 33 conditions; at most 32 are allowed",
    ),
    "metric named as built in": (
        "models:",
        "metrics: {§ctr: {type: mean, outcome: x}}\nmodels:",
        "metrics.ctr",
        "is a built-in metric; choose another name",
    ),
    "metric type": (
        "models:",
        "metrics: {a: {type: §man, outcome: x}}\nmodels:",
        "metrics.a.type",
        "`man` is not allowed; did you mean `mean`?",
    ),
    "concluded twice": (
        "models:",
        "concluded: [{experiment: a, winner: b, at: 2026-11-01T00:00:00Z}, {experiment: §a, winner: b, at: 2026-11-02T00:00:00Z}]\nmodels:",
        "concluded[1].experiment",
        "`a` is given twice",
    ),
    "concluded and running": (
        "models:",
        "concluded: [{experiment: §e, winner: b, at: 2026-11-01T00:00:00Z}]\nmodels:",
        "concluded[0].experiment",
        "`e` is also the name of experiments[0]; a new experiment needs a new name",
    ),
    "concluded at no time": (
        "models:",
        "concluded: [{experiment: a, winner: b, at: §yesterday}]\nmodels:",
        "concluded[0].at",
        "`yesterday` must be a time with its zone",
    ),
    "concluded without winner": (
        "models:",
        "concluded: [§{experiment: a, at: 2026-11-01T00:00:00Z}]\nmodels:",
        "concluded[0].winner",
        "is missing: group whose version became the default",
    ),
    "currency": ("models:", "currency: §eur\nmodels:", "currency", "`eur` must be an ISO 4217 code such as `EUR`"),
    "rates without a currency": (
        "version: 1",
        "§rates: {USD: 0.92}\nversion: 1",
        "currency",
        "is missing: `rates` con",
    ),
    "rate of no currency": (
        "models:",
        "currency: EUR\nrates: {§dollar: 0.92}\nmodels:",
        "rates.dollar",
        "`dollar` must be an ISO 4217 code",
    ),
    "rate of the currency itself": (
        "models:",
        "currency: EUR\nrates: {§EUR: 1}\nmodels:",
        "rates.EUR",
        "is the `currency` itself",
    ),
    "rate": (
        "models:",
        "currency: EUR\nrates: {USD: §0}\nmodels:",
        "rates.USD",
        "must be how much of the `currency` one unit is: a number above 0 and below 1,000,000,000, not `0`",
    ),
    "rates as a list": ("models:", "currency: EUR\nrates: §[USD]\nmodels:", "rates", "must be a mapping of keys"),
    "currency of a count": (
        "models:",
        "metrics: {a: {type: count, outcome: x, currency: §EUR}}\nmodels:",
        "metrics.a.currency",
        "is allowed for the type `mean` only, which adds up values, and this metric is a count",
    ),
    "rates of a metric without its currency": (
        "models:",
        "currency: EUR\nmetrics: {a: §{type: mean, outcome: x, rates: {USD: 0.92}}}\nmodels:",
        "metrics.a.currency",
        "is missing: `rates` con",
    ),
    "neither groups nor interleave": (
        VALID[VALID.index("- name: e") :],
        "- §name: e\n",
        G,
        "is missing; give `groups` or `interleave`",
    ),
    "groups and interleave": (
        SALT,
        "    §interleave: [v1, v2]\n",
        f"{E}.interleave",
        "is not allowed beside `groups`; give one of the two",
    ),
    "one version interleaved": (GROUPS, "interleave: §[v1]\n", f"{E}.interleave", "has 1 item; exactly 2 are needed"),
    "nothing interleaved": (
        GROUPS,
        "interleave: §[]\n",
        f"{E}.interleave",
        "has 0 items; exactly 2 are needed",
    ),
    "interleaved with itself": (
        GROUPS,
        "interleave: [v2, §v2]\n",
        f"{E}.interleave[1]",
        "`v2` is given twice",
    ),
    "no such version interleaved": (
        GROUPS,
        "interleave: [v1, §v3]\n",
        f"{E}.interleave[1]",
        "`v3` is not one of the models; allowed: v1, v2",
    ),
    "interleaved and metrics": (
        GROUPS,
        "interleave: [v1, v2]\n    §metrics: {primary: ctr}\n",
        f"{E}.metrics",
        "is not allowed with `interleave`, because clicks on the items of each version decide; leave it out",
    ),
    "interleaved and autopilot": (
        GROUPS,
        "interleave: [v1, v2]\n    §autopilot: {}\n",
        f"{E}.autopilot",
        "is not allowed with `interleave`, because there is no group to act on; leave it out",
    ),
    "interleaved, and one logs no items": (
        VALID[VALID.index("  v2:") :],
        """\
  v2: {target: "h:2", log: {items: item_ids}}
experiments:
  - {name: e, interleave: [v2, §v1]}
""",
        f"{E}.interleave[1]",
        "`v1` has no output with items for ModelInfer, and `v2` has; name one in its `log`",
    ),
    "forced into another group than interleaved": (
        GROUPS,
        "interleave: [v1, v2]\n    overrides: {u: §control}\n",
        f"{E}.overrides.u",
        "`control` is not a group of the experiment; allowed: interleaved",
    ),
    "shares of an interleaving": (
        GROUPS,
        "interleave: [v1, v2]\n    ramp: [{at: 2026-11-01T00:00:00Z, §interleaved: 100}]\n",
        f"{E}.ramp[0].interleaved",
        "is not a known key; allowed: at, traffic",
    ),
    "shadow of no model": (
        "experiments:",
        "shadow: [{model: §v3, percent: 10}]\nexperiments:",
        "shadow[0].model",
        "`v3` is not one of the models; allowed: v1, v2",
    ),
    "shadow of calls of no model": (
        "experiments:",
        "shadow: [{model: v2, percent: 10, of: [v1, §v3]}]\nexperiments:",
        "shadow[0].of[1]",
        "`v3` is not one of the models; allowed: v1, v2",
    ),
    "shadow of itself": (
        "experiments:",
        "shadow: [{model: v2, percent: 10, of: §[v1, v2]}]\nexperiments:",
        "shadow[0].of",
        "`v2` is the `model` itself; name other versions",
    ),
    "shadow of nothing": (
        "experiments:",
        "shadow: [{model: v2, percent: 10, of: §[]}]\nexperiments:",
        "shadow[0].of",
        "is an empty list, which no call is of",
    ),
    "shadow twice": (
        "experiments:",
        "shadow: [{model: v2, percent: 10}, {model: §v2, percent: 5}]\nexperiments:",
        "shadow[1].model",
        "`v2` is given twice",
    ),
    "shadow without a percent": (
        "experiments:",
        "shadow: [§{model: v2}]\nexperiments:",
        "shadow[0].percent",
        "is missing: percent of calls",
    ),
    "winsorise": (
        "models:",
        "metrics: {a: {type: mean, outcome: x, winsorise: §99}}\nmodels:",
        "metrics.a.winsorise",
        "must be a quantile from 0.5 to 1, which cuts nothing, not `99`",
    ),
}

# What is no such file at all. Name: (text, beginning of the message).
TRAPS: dict[str, tuple[str, str]] = {
    "empty": ("§", "is empty; it needs at least `version`, `default` and `models`"),
    "only a comment": ("§# nothing\n", "is empty; it needs at least"),
    "text": ("§hello", "must be a mapping of keys to values, not `hello`"),
    "list": ("§- a\n", "must be a mapping of keys to values, not a list"),
    "tab": ("version: 1\nmodels:\n§\tv1: {}\n", "is not YAML: a tab; indent with spaces"),
    "unclosed": ("version: [1\n§", "is not YAML: did not find expected ',' or ']'"),
    "two documents": ("version: 1\n§---\nversion: 1\n", "holds a second YAML document; put everything in the first"),
    "directive": ("§%YAML 1.1\n---\nversion: 1\n", "has a YAML directive (%); remove it"),
    "control character": ("version: 1\ndefault: §\x01\n", "holds a character that YAML forbids"),
    "deep": ("a: " + "[" * 15 + "§" + "[" * 500, "is nested deeper than 16 levels"),
    "deep keys": ("{" * 16 + "§" + "{" * 500, "is nested deeper than 16 levels"),
}
