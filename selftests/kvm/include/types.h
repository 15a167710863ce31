/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's short names of integers, for the kselftests and their guests. */
#ifndef TYPES_H
#define TYPES_H

#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#endif
