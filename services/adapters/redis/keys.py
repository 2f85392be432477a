"""Names of all Redis keys, except those of Feast's own rows (services.adapters.feast.redis_layout).

Keys that one script or one transaction uses share a hash tag, the part in braces, so that a Redis cluster
keeps them on one node.
"""

PINS_RESTORED = "{pins}:restored"  # set of partitions whose pins were restored since Redis was empty
HEARTBEAT_BODIES = "{heartbeats}:bodies"  # hash: replica -> JSON
HEARTBEAT_EXPIRY = "{heartbeats}:expiry"  # sorted set: replica -> ms
OVERLAY_POSITION = "{items}:place"
OVERLAY_SEQUENCE = "{items}:sequence"  # number of the newest change
OVERLAY_CHANGES = "{items}:said"  # hash: key of the change -> "<number> <JSON>"


def pin(unit_key: str) -> str:
    """Pin of a unit; `unit_key` is "<experiment>|<unit>"."""
    return f"pin:{unit_key}"


def pins_complete(experiment: str) -> str:
    """Mark that no pin of an experiment is missing. It is lost together with the pins."""
    return f"{{pins}}:whole:{experiment}"


def pins_restoring(store: str) -> str:
    """Set of the partitions whose pins the store named `store` is restoring."""
    return f"{{pins}}:restoring:{store}"


def positions(partition: int) -> str:
    """Positions of a partition's sums, JSON."""
    return _of_partition(partition, "positions")


def experiments(partition: int) -> str:
    """Set of the experiments that have sums in a partition."""
    return _of_partition(partition, "experiments")


def sums(partition: int, experiment: str) -> str:
    """Sums of an experiment in a partition, a hash."""
    return _of_partition(partition, f"sums:{experiment}")


def watermark(partition: int) -> str:
    """How far the worker of a partition has read: "<watermark in ms>|<records behind>"."""
    return _of_partition(partition, "watermark")


def loss(partition: int) -> str:
    """Report of a data loss that is not acknowledged yet."""
    return _of_partition(partition, "loss")


def accepted_loss(partition: int) -> str:
    """Positions at which a data loss was acknowledged."""
    return _of_partition(partition, "accepted")


def experiment_state(experiment: str) -> str:
    """Cached state of an experiment, a hash of revision and body."""
    return f"experiment:{experiment}"


def lease(name: str) -> str:
    """Holder of a lease."""
    return f"lease:{name}"


def activity_positions(log_id: str) -> str:
    """Next offsets of the activity worker in a log, a hash by "topic/partition"."""
    return f"activity:positions:{log_id}"


def row_lock(user: str) -> str:
    """Lock on the row of a user in the view `user_activity`."""
    return f"{{activity}}:writing:{user}"


def _of_partition(partition: int, name: str) -> str:
    return f"{{bandit:{partition}}}:{name}"
