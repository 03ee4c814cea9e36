//! Files written by real torch.save and safetensors.
