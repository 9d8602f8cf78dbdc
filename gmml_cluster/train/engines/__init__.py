"""How a step is computed: DDP, or DeepSpeed's ZeRO stages, behind one protocol."""
