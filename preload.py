"""Command-line flags that this extension adds to the WebUI. The WebUI loads this file before the rest."""


def preload(parser):
    """Add our flags to the WebUI's argument parser."""
    parser.add_argument(
        "--dreambooth-models-path",
        type=str,
        default=None,
        metavar="DIR",
        help="folder of the Dreambooth models (default: the folder dreambooth in the models folder)",
    )
