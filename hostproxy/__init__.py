"""hostproxy: a service mesh for virtual machines and bare metal, one proxy per host."""
