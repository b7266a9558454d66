"""Whether an installation is well: ``symvanta doctor``. Looks and changes nothing, anywhere; see ``examination``."""
