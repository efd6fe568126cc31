"""Command-line flags that the WebUI learns from this extension. Read before anything else of it."""


def preload(parser):
    """Add our flags to the WebUI's argument parser."""
    parser.add_argument(
        "--dreambooth-models-path",
        type=str,
        default=None,
        metavar="DIR",
        help="folder of the Dreambooth models (default: dreambooth in the models folder)",
    )
