"""Networks, one module each; `import diffusers_video` makes them available at the top level."""
