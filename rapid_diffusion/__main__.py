"""`python -m rapid_diffusion` is `rapid-diffusion`."""

from rapid_diffusion.cli import main

if __name__ == "__main__":
    main()
