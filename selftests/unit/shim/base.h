/* SPDX-License-Identifier: GPL-2.0 */
/*
 * base.h - userspace stand-ins for the kernel helpers that have no state:
 * compiler annotations, min/max, atomics, bit operations, bitmaps, 64-bit
 * arithmetic; and memory allocation with failures on demand.
 *
 * A WARN is a failed test here: nothing that a guest or an ioctl does may
 * reach one. Read next: shim/sync.h, shim/time.h.
 */
#ifndef SHIM_BASE_H
#define SHIM_BASE_H

#include <linux/types.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* compiler */
#ifndef __always_inline
#define __always_inline		inline __attribute__((__always_inline__))
#endif
#define noinline		__attribute__((__noinline__))
#define __maybe_unused		__attribute__((__unused__))
#define __must_check		__attribute__((__warn_unused_result__))
#ifndef __packed
#define __packed		__attribute__((__packed__))
#endif
#ifndef __aligned
#define __aligned(x)		__attribute__((__aligned__(x)))
#endif
#ifndef __printf
#define __printf(a, b)		__attribute__((__format__(printf, a, b)))
#endif
#define ____cacheline_aligned	__aligned(64)
#define ____cacheline_aligned_in_smp __aligned(64)
#define __user
#define __iomem
#define __rcu
#define __percpu
#define __force
#define __init
#define __exit
#define __ro_after_init
#define __read_mostly
#define __cold
#define __hot
#define __acquires(x)
#define __releases(x)
#define __must_hold(x)
#define __private
#define fallthrough		__attribute__((__fallthrough__))
#define likely(x)		__builtin_expect(!!(x), 1)
#define unlikely(x)		__builtin_expect(!!(x), 0)
#define unreachable()		__builtin_unreachable()
#define barrier()		__asm__ __volatile__("" ::: "memory")
#define static_assert		_Static_assert
#define BUILD_BUG_ON(cond)	_Static_assert(!(cond), #cond)
#define READ_ONCE(x)		(*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v)	(*(volatile __typeof__(x) *)&(x) = (v))
#define smp_mb()		__atomic_thread_fence(__ATOMIC_SEQ_CST)
#define smp_rmb()		__atomic_thread_fence(__ATOMIC_ACQUIRE)
#define smp_wmb()		__atomic_thread_fence(__ATOMIC_RELEASE)
#define smp_mb__before_atomic()	smp_mb()
#define smp_mb__after_atomic()	smp_mb()
#define smp_load_acquire(p)	__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define smp_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define smp_store_mb(var, v)	do { WRITE_ONCE(var, v); smp_mb(); } while (0)
#define cpu_relax()		barrier()
#define cond_resched()		do { } while (0)
#define might_sleep()		do { } while (0)
#define IS_ENABLED(option)	0
#define EXPORT_SYMBOL_GPL(sym)	_Static_assert(1, "")
#define THIS_MODULE		NULL

/* messages and assertions */
#define pr_info(...)		((void)0)
#define pr_debug(...)		((void)0)
#define pr_warn(...)		((void)0)
#define pr_err(...)		((void)0)
#define pr_warn_once(...)	((void)0)
#define pr_warn_ratelimited(...) ((void)0)
#define pr_err_ratelimited(...)	((void)0)

static inline void shim_die(const char *file, int line, const char *what)
{
	printf("Bail out! %s:%d: %s\n", file, line, what);
	fflush(stdout);
	abort();
}

#define WARN_ON(cond) ({						\
	bool shim_warn = !!(cond);					\
	if (shim_warn)							\
		shim_die(__FILE__, __LINE__, "WARN_ON(" #cond ")");	\
	shim_warn; })
#define WARN_ON_ONCE(cond)	WARN_ON(cond)
#define WARN(cond, ...)		WARN_ON(cond)
#define WARN_ONCE(cond, ...)	WARN_ON(cond)

/* kernel.h, minmax.h, limits.h, math.h */
#ifndef container_of
#define container_of(ptr, type, member) \
	((type *)((char *)(ptr) - offsetof(type, member)))
#endif
#define sizeof_field(type, member) sizeof(((type *)0)->member)
#define offsetofend(type, member) (offsetof(type, member) + sizeof_field(type, member))
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#define min_t(t, a, b)		({ t shim_a = (a); t shim_b = (b); shim_a < shim_b ? shim_a : shim_b; })
#define max_t(t, a, b)		({ t shim_a = (a); t shim_b = (b); shim_a > shim_b ? shim_a : shim_b; })
#define min(a, b)		min_t(__typeof__((a) + (b)), a, b)
#define min3(a, b, c)		min(min(a, b), c)
#define max(a, b)		max_t(__typeof__((a) + (b)), a, b)
#define clamp_t(t, v, lo, hi)	min_t(t, max_t(t, v, lo), hi)
#define clamp(v, lo, hi)	clamp_t(__typeof__(v), v, lo, hi)
#define clamp_val(v, lo, hi)	clamp_t(__typeof__(v), v, lo, hi)
#define swap(a, b)		do { __typeof__(a) shim_t = (a); (a) = (b); (b) = shim_t; } while (0)
#define DIV_ROUND_UP(n, d)	(((n) + (d) - 1) / (d))
#define DIV_ROUND_UP_ULL(n, d)	DIV_ROUND_UP((u64)(n), d)
#define DIV_ROUND_CLOSEST_ULL(n, d) (((u64)(n) + (d) / 2) / (d))
#define ALIGN(x, a)		(((x) + ((__typeof__(x))(a) - 1)) & ~((__typeof__(x))(a) - 1))
#define ALIGN_DOWN(x, a)	((x) & ~((__typeof__(x))(a) - 1))
#define IS_ALIGNED(x, a)	(((x) & ((__typeof__(x))(a) - 1)) == 0)
#define round_up(x, a)		ALIGN(x, a)
#define round_down(x, a)	ALIGN_DOWN(x, a)
#define lower_32_bits(x)	((u32)(x))
#define upper_32_bits(x)	((u32)((u64)(x) >> 32))
#define U8_MAX			((u8)~0U)
#define U16_MAX			((u16)~0U)
#define U32_MAX			((u32)~0U)
#define U64_MAX			((u64)~0ULL)
#define S32_MAX			((s32)(U32_MAX >> 1))
#define S64_MAX			((s64)(U64_MAX >> 1))
#define S64_MIN			((s64)(-S64_MAX - 1))
#define struct_size(p, member, n) (sizeof(*(p)) + sizeof((p)->member[0]) * (size_t)(n))
#define array_size(a, b)	((size_t)(a) * (size_t)(b))
#define check_add_overflow(a, b, d) __builtin_add_overflow(a, b, d)
#define check_sub_overflow(a, b, d) __builtin_sub_overflow(a, b, d)
#define check_mul_overflow(a, b, d) __builtin_mul_overflow(a, b, d)
#define get_unaligned(p)	({ __typeof__(*(p)) shim_v; memcpy(&shim_v, (p), sizeof(shim_v)); shim_v; })
#define put_unaligned(v, p)	do { __typeof__(*(p)) shim_v = (v); memcpy((p), &shim_v, sizeof(shim_v)); } while (0)

/* nospec.h, which keeps a log: a test sees which index was clamped, and to what */
static __maybe_unused struct { unsigned long index, size; } shim_clamps[16];
static __maybe_unused unsigned int shim_nr_clamps;

static inline unsigned long array_index_nospec(unsigned long index, unsigned long size)
{
	shim_clamps[shim_nr_clamps % ARRAY_SIZE(shim_clamps)].index = index;
	shim_clamps[shim_nr_clamps++ % ARRAY_SIZE(shim_clamps)].size = size;
	return index < size ? index : 0;
}

/* Is it in the log, which is empty afterwards? */
static inline bool shim_clamped(unsigned long index, unsigned long size)
{
	bool found = false;
	unsigned int i;

	for (i = 0; i < shim_nr_clamps && i < ARRAY_SIZE(shim_clamps); i++)
		found |= shim_clamps[i].index == index && shim_clamps[i].size == size;
	shim_nr_clamps = 0;
	return found;
}

static inline void *memchr_inv(const void *p, int c, size_t n)
{
	const unsigned char *b = p;

	for (; n; b++, n--)
		if (*b != (unsigned char)c)
			return (void *)b;
	return NULL;
}

/* math64.h */
static inline u64 div_u64(u64 n, u32 d) { return n / d; }
static inline u64 div64_u64(u64 n, u64 d) { return n / d; }
static inline s64 div64_s64(s64 n, s64 d) { return n / d; }
static inline s64 div_s64(s64 n, s32 d) { return n / d; }
static inline u64 div_u64_rem(u64 n, u32 d, u32 *rem) { *rem = n % d; return n / d; }
static inline u64 div64_u64_rem(u64 n, u64 d, u64 *rem) { *rem = n % d; return n / d; }
static inline u64 mul_u32_u32(u32 a, u32 b) { return (u64)a * b; }
static inline u64 mul_u64_u32_shr(u64 a, u32 m, unsigned int s) { return (u64)(((unsigned __int128)a * m) >> s); }
static inline u64 mul_u64_u64_shr(u64 a, u64 m, unsigned int s) { return (u64)(((unsigned __int128)a * m) >> s); }

/* As the CPU does it: a quotient over 64 bits, or a zero divisor, is a divide error. */
static inline u64 mul_u64_u64_div_u64(u64 a, u64 m, u64 d)
{
	unsigned __int128 q;

	WARN_ON(!d);
	q = (unsigned __int128)a * m / d;
	WARN_ON(q >> 64);
	return (u64)q;
}

static inline u64 mul_u64_u32_div(u64 a, u32 m, u32 d)
{
	return mul_u64_u64_div_u64(a, m, d);
}

#define do_div(n, d) ({ u32 shim_r = (n) % (u32)(d); (n) /= (u32)(d); shim_r; })

/* atomics */
typedef struct { int counter; } atomic_t;
typedef struct { s64 counter; } atomic64_t;
typedef struct { long counter; } atomic_long_t;
#define ATOMIC_INIT(v)		{ (v) }
#define ATOMIC64_INIT(v)	{ (v) }

#define SHIM_ATOMIC(pre, type, val)								\
static inline val pre##_read(const type *v) { return __atomic_load_n(&v->counter, __ATOMIC_RELAXED); } \
static inline void pre##_set(type *v, val i) { __atomic_store_n(&v->counter, i, __ATOMIC_RELAXED); } \
static inline void pre##_add(val i, type *v) { __atomic_fetch_add(&v->counter, i, __ATOMIC_RELAXED); } \
static inline void pre##_sub(val i, type *v) { __atomic_fetch_sub(&v->counter, i, __ATOMIC_RELAXED); } \
static inline void pre##_inc(type *v) { pre##_add(1, v); }					\
static inline void pre##_dec(type *v) { pre##_sub(1, v); }					\
static inline val pre##_add_return(val i, type *v) { return __atomic_add_fetch(&v->counter, i, __ATOMIC_SEQ_CST); } \
static inline val pre##_inc_return(type *v) { return pre##_add_return(1, v); }			\
static inline val pre##_dec_return(type *v) { return pre##_add_return(-1, v); }			\
static inline val pre##_fetch_inc(type *v) { return __atomic_fetch_add(&v->counter, 1, __ATOMIC_SEQ_CST); } \
static inline val pre##_fetch_add(val i, type *v) { return __atomic_fetch_add(&v->counter, i, __ATOMIC_SEQ_CST); } \
static inline val pre##_fetch_or(val i, type *v) { return __atomic_fetch_or(&v->counter, i, __ATOMIC_SEQ_CST); } \
static inline val pre##_fetch_andnot(val i, type *v) { return __atomic_fetch_and(&v->counter, ~i, __ATOMIC_SEQ_CST); } \
static inline void pre##_or(val i, type *v) { pre##_fetch_or(i, v); }				\
static inline void pre##_andnot(val i, type *v) { pre##_fetch_andnot(i, v); }			\
static inline bool pre##_dec_and_test(type *v) { return pre##_dec_return(v) == 0; }		\
static inline val pre##_xchg(type *v, val i) { return __atomic_exchange_n(&v->counter, i, __ATOMIC_SEQ_CST); } \
static inline bool pre##_try_cmpxchg(type *v, val *o, val n)					\
{ return __atomic_compare_exchange_n(&v->counter, o, n, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); } \
static inline val pre##_cmpxchg(type *v, val o, val n) { pre##_try_cmpxchg(v, &o, n); return o; } \
static inline bool pre##_add_unless(type *v, val a, val u)					\
{ val c = pre##_read(v); while (c != u) if (pre##_try_cmpxchg(v, &c, c + a)) return true; return false; } \
static inline bool pre##_inc_not_zero(type *v) { return pre##_add_unless(v, 1, 0); }		\
static inline val pre##_dec_if_positive(type *v)						\
{ val c = pre##_read(v); while (c > 0) if (pre##_try_cmpxchg(v, &c, c - 1)) break; return c - 1; }

SHIM_ATOMIC(atomic, atomic_t, int)
SHIM_ATOMIC(atomic64, atomic64_t, s64)
SHIM_ATOMIC(atomic_long, atomic_long_t, long)
#undef SHIM_ATOMIC

#define xchg(p, v)		__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define cmpxchg(p, o, n) ({						\
	__typeof__(*(p)) shim_o = (o);					\
	__atomic_compare_exchange_n(p, &shim_o, n, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
	shim_o; })
#define try_cmpxchg(p, o, n) \
	__atomic_compare_exchange_n(p, o, n, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* bits.h, bitops.h */
#define BITS_PER_BYTE		8
#define BITS_PER_LONG		64
#define BITS_PER_LONG_LONG	64
#define BITS_PER_TYPE(t)	(sizeof(t) * 8)
#define BITS_TO_LONGS(n)	DIV_ROUND_UP(n, BITS_PER_LONG)
#define BIT(n)			(1UL << (n))
#define BIT_ULL(n)		(1ULL << (n))
#define BIT_MASK(n)		(1UL << ((n) % BITS_PER_LONG))
#define BIT_WORD(n)		((n) / BITS_PER_LONG)
#define GENMASK(h, l)		(((~0UL) << (l)) & (~0UL >> (63 - (h))))
#define GENMASK_ULL(h, l)	(((~0ULL) << (l)) & (~0ULL >> (63 - (h))))
#define DECLARE_BITMAP(name, bits) unsigned long name[BITS_TO_LONGS(bits)]
#define shim_word(p, n)		((unsigned long *)(p) + BIT_WORD((unsigned long)(n)))

static inline void set_bit(long n, volatile unsigned long *p) { __atomic_fetch_or(shim_word(p, n), BIT_MASK(n), __ATOMIC_RELAXED); }
static inline void clear_bit(long n, volatile unsigned long *p) { __atomic_fetch_and(shim_word(p, n), ~BIT_MASK(n), __ATOMIC_RELAXED); }
static inline void change_bit(long n, volatile unsigned long *p) { __atomic_fetch_xor(shim_word(p, n), BIT_MASK(n), __ATOMIC_RELAXED); }
static inline void clear_bit_unlock(long n, volatile unsigned long *p) { __atomic_fetch_and(shim_word(p, n), ~BIT_MASK(n), __ATOMIC_RELEASE); }
static inline bool test_and_set_bit(long n, volatile unsigned long *p) { return __atomic_fetch_or(shim_word(p, n), BIT_MASK(n), __ATOMIC_SEQ_CST) & BIT_MASK(n); }
static inline bool test_and_clear_bit(long n, volatile unsigned long *p) { return __atomic_fetch_and(shim_word(p, n), ~BIT_MASK(n), __ATOMIC_SEQ_CST) & BIT_MASK(n); }
static inline bool test_bit(long n, const volatile unsigned long *p) { return __atomic_load_n(shim_word(p, n), __ATOMIC_RELAXED) & BIT_MASK(n); }
static inline void __set_bit(long n, volatile unsigned long *p) { *shim_word(p, n) |= BIT_MASK(n); }
static inline void __clear_bit(long n, volatile unsigned long *p) { *shim_word(p, n) &= ~BIT_MASK(n); }
static inline void __change_bit(long n, volatile unsigned long *p) { *shim_word(p, n) ^= BIT_MASK(n); }
static inline void __assign_bit(long n, volatile unsigned long *p, bool v) { if (v) __set_bit(n, p); else __clear_bit(n, p); }
static inline void assign_bit(long n, volatile unsigned long *p, bool v) { if (v) set_bit(n, p); else clear_bit(n, p); }
static inline bool __test_and_set_bit(long n, volatile unsigned long *p) { bool o = *shim_word(p, n) & BIT_MASK(n); __set_bit(n, p); return o; }
static inline bool __test_and_clear_bit(long n, volatile unsigned long *p) { bool o = *shim_word(p, n) & BIT_MASK(n); __clear_bit(n, p); return o; }

static inline unsigned long __ffs(unsigned long w) { return __builtin_ctzl(w); }
static inline unsigned long __fls(unsigned long w) { return 63 - __builtin_clzl(w); }
static inline unsigned long ffz(unsigned long w) { return __builtin_ctzl(~w); }
static inline int fls(unsigned int w) { return w ? 32 - __builtin_clz(w) : 0; }
static inline int fls64(u64 w) { return w ? 64 - __builtin_clzll(w) : 0; }
#define ffs(w)			__builtin_ffs(w)
static inline unsigned int hweight8(unsigned int w) { return __builtin_popcount(w & 0xff); }
static inline unsigned int hweight16(unsigned int w) { return __builtin_popcount(w & 0xffff); }
static inline unsigned int hweight32(unsigned int w) { return __builtin_popcount(w); }
static inline unsigned int hweight64(u64 w) { return __builtin_popcountll(w); }
static inline unsigned long hweight_long(unsigned long w) { return __builtin_popcountl(w); }
static inline bool is_power_of_2(unsigned long n) { return n && !(n & (n - 1)); }
static inline int ilog2(u64 n) { return fls64(n) - 1; }
static inline u8 rol8(u8 w, unsigned int s) { return (w << (s & 7)) | (w >> (-s & 7)); }
static inline u8 ror8(u8 w, unsigned int s) { return (w >> (s & 7)) | (w << (-s & 7)); }
static inline u16 rol16(u16 w, unsigned int s) { return (w << (s & 15)) | (w >> (-s & 15)); }
static inline u16 ror16(u16 w, unsigned int s) { return (w >> (s & 15)) | (w << (-s & 15)); }
static inline u32 rol32(u32 w, unsigned int s) { return (w << (s & 31)) | (w >> (-s & 31)); }
static inline u32 ror32(u32 w, unsigned int s) { return (w >> (s & 31)) | (w << (-s & 31)); }
static inline u64 rol64(u64 w, unsigned int s) { return (w << (s & 63)) | (w >> (-s & 63)); }
static inline u64 ror64(u64 w, unsigned int s) { return (w >> (s & 63)) | (w << (-s & 63)); }
static inline s32 sign_extend32(u32 v, int bit) { return (s32)(v << (31 - bit)) >> (31 - bit); }
static inline s64 sign_extend64(u64 v, int bit) { return (s64)(v << (63 - bit)) >> (63 - bit); }
static inline u16 swab16(u16 v) { return __builtin_bswap16(v); }
static inline u32 swab32(u32 v) { return __builtin_bswap32(v); }
static inline u64 swab64(u64 v) { return __builtin_bswap64(v); }

static inline unsigned long find_next_bit(const unsigned long *p, unsigned long size, unsigned long n)
{
	while (n < size && !test_bit(n, p))
		n++;
	return min(n, size);
}

static inline unsigned long find_next_zero_bit(const unsigned long *p, unsigned long size, unsigned long n)
{
	while (n < size && test_bit(n, p))
		n++;
	return min(n, size);
}

static inline unsigned long find_last_bit(const unsigned long *p, unsigned long size)
{
	unsigned long n = size;

	while (n--)
		if (test_bit(n, p))
			return n;
	return size;
}

#define find_first_bit(p, size)		find_next_bit(p, size, 0)
#define find_first_zero_bit(p, size)	find_next_zero_bit(p, size, 0)
#define for_each_set_bit(n, p, size) \
	for ((n) = find_first_bit(p, size); (n) < (size); (n) = find_next_bit(p, size, (n) + 1))

/* bitmap.h */
#define shim_bitmap_bytes(nbits)	(BITS_TO_LONGS(nbits) * sizeof(long))
static inline void bitmap_zero(unsigned long *d, unsigned int n) { memset(d, 0, shim_bitmap_bytes(n)); }
static inline void bitmap_copy(unsigned long *d, const unsigned long *s, unsigned int n) { memcpy(d, s, shim_bitmap_bytes(n)); }
static inline bool bitmap_empty(const unsigned long *p, unsigned int n) { return find_first_bit(p, n) == n; }
static inline bool bitmap_full(const unsigned long *p, unsigned int n) { return find_first_zero_bit(p, n) == n; }

static inline void bitmap_fill(unsigned long *d, unsigned int n)
{
	bitmap_zero(d, n);
	while (n--)
		__set_bit(n, d);
}

static inline unsigned int bitmap_weight(const unsigned long *p, unsigned int n)
{
	unsigned int i, w = 0;

	for_each_set_bit(i, p, n)
		w++;
	return w;
}

/* slab.h, mm.h: shim_alloc_fail_in = n makes the n-th allocation from now fail */
#define GFP_KERNEL		0x1u
#define GFP_KERNEL_ACCOUNT	0x2u
#define GFP_ATOMIC		0x4u
#define GFP_NOWAIT		0x8u
#define __GFP_ZERO		0x10u
#define PAGE_SHIFT		12
#define PAGE_SIZE		4096UL
#define PAGE_MASK		(~(PAGE_SIZE - 1))
#define offset_in_page(p)	((unsigned long)(p) & ~PAGE_MASK)

static __maybe_unused int shim_alloc_fail_in;

static inline void *kzalloc(size_t size, gfp_t flags)
{
	(void)flags;
	if (shim_alloc_fail_in && !--shim_alloc_fail_in)
		return NULL;
	return calloc(1, size ? size : 1);
}

static inline void *kmalloc(size_t size, gfp_t flags)
{
	void *p = kzalloc(size, flags);

	if (p && !(flags & __GFP_ZERO))
		memset(p, 0xa5, size);
	return p;
}

static inline void *kmemdup(const void *src, size_t size, gfp_t flags)
{
	void *p = kmalloc(size, flags);

	return p ? memcpy(p, src, size) : NULL;
}

static inline void *kcalloc(size_t n, size_t size, gfp_t flags)
{
	size_t bytes;

	return __builtin_mul_overflow(n, size, &bytes) ? NULL : kzalloc(bytes, flags);
}

static inline unsigned long get_zeroed_page(gfp_t flags)
{
	if (shim_alloc_fail_in && !--shim_alloc_fail_in)
		return 0;
	(void)flags;
	return (unsigned long)memset(aligned_alloc(PAGE_SIZE, PAGE_SIZE), 0, PAGE_SIZE);
}

static inline void free_page(unsigned long p) { free((void *)p); }
static inline void kfree(const void *p) { free((void *)p); }
#define __get_free_page(flags)	get_zeroed_page(flags)
#define kvmalloc(s, f)		kmalloc(s, f)
#define kvzalloc(s, f)		kzalloc(s, f)
#define kvcalloc(n, s, f)	kcalloc(n, s, f)
#define kvmalloc_array(n, s, f)	kcalloc(n, s, f)
#define kmalloc_array(n, s, f)	kcalloc(n, s, f)
#define kvfree(p)		kfree(p)

/* err.h */
#define IS_ERR_VALUE(x)		((unsigned long)(x) >= (unsigned long)-4095)
#define IS_ERR(p)		IS_ERR_VALUE((unsigned long)(p))
#define PTR_ERR(p)		((long)(p))
#define ERR_PTR(e)		((void *)(long)(e))

#endif
