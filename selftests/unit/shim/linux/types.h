/* SPDX-License-Identifier: GPL-2.0 */
/*
 * types.h - userspace stand-in: the UAPI types plus the kernel's own names for
 * them. This is the one header that the UAPI headers include as well, so it
 * stays small. Read next: shim/base.h.
 */
#ifndef SHIM_LINUX_TYPES_H
#define SHIM_LINUX_TYPES_H

#include_next <linux/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef u64 gpa_t;
typedef u64 gfn_t;
typedef u64 hpa_t;
typedef u64 phys_addr_t;
typedef unsigned int gfp_t;

struct rcu_head {
	struct rcu_head *next;
	void *object;
};

struct list_head {
	struct list_head *next, *prev;
};

#endif
