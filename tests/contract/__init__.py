"""The adapters of this repository under the contract that Stem ships."""
