// SPDX-License-Identifier: MIT
/* dlopen() with RTLD_DEEPBIND, as PHP loads its extensions.  The plugin is found
 * by the program's own RUNPATH: dlopen() has to see the program as its caller. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
	void *plugin = dlopen("libplugin.so", RTLD_NOW | RTLD_DEEPBIND);
	int (*work)(void);

	if (!plugin) {
		puts(dlerror());
		return 1;
	}
	*(void **)&work = dlsym(plugin, "work");
	return work();
}
