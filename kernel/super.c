// SPDX-License-Identifier: GPL-2.0
/* msharefs: mount, options, limits. */
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/sysfs.h>
#include "internal.h"

#define MSHARE_MAX_INODES	65536

static struct inode *mshare_alloc_inode(struct super_block *sb)
{
	struct mshare_inode *mi = kzalloc(sizeof(*mi), GFP_KERNEL_ACCOUNT);

	if (!mi)
		return NULL;
	inode_init_once(&mi->vfs_inode);
	INIT_LIST_HEAD(&mi->base_node);
	mshare_trees_init(mi);
	return &mi->vfs_inode;
}

static void mshare_free_inode(struct inode *inode)
{
	kfree(MSHARE_I(inode));
}

static void mshare_evict_inode(struct inode *inode)
{
	struct mshare_inode *mi = MSHARE_I(inode);

	/* No mapping is left, so nothing links to these tables any more. */
	mshare_trees_free(mi);
	mshare_drop_range(inode, 0, MSHARE_TO_END);
	truncate_inode_pages_final(inode->i_mapping);
	mshare_uncharge(mi, atomic64_read(&mi->charged));
	mshare_set_base(mi, 0);
	clear_inode(inode);
	if (inode->i_private)
		iput(inode->i_private);	/* a map-only handle's region */
	else
		atomic64_dec(&MSHARE_SB(inode->i_sb)->used_inodes);
}

/* Pages and page tables together: a region needs a little more than its size. */
static int mshare_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	struct mshare_sb_info *sbi = MSHARE_SB(dentry->d_sb);
	s64 max = READ_ONCE(sbi->max_pages);

	simple_statfs(dentry, buf);
	buf->f_blocks = max;
	buf->f_bfree = max_t(s64, 0, max - atomic64_read(&sbi->used_pages));
	buf->f_bavail = buf->f_bfree;
	max = READ_ONCE(sbi->max_inodes);
	buf->f_files = max;
	buf->f_ffree = max_t(s64, 0, max - atomic64_read(&sbi->used_inodes));
	return 0;
}

static const struct constant_table mshare_huge_words[] = {
	{ "never",	MSHARE_HUGE_NEVER },
	{ "advise",	MSHARE_HUGE_ADVISE },
	{ "always",	MSHARE_HUGE_ALWAYS },
	{}
};

static int mshare_show_options(struct seq_file *m, struct dentry *root)
{
	struct mshare_sb_info *sbi = MSHARE_SB(root->d_sb);

	seq_printf(m, ",size=%lldk,mode=%03ho",
		   READ_ONCE(sbi->max_pages) << (PAGE_SHIFT - 10), sbi->mode);
	if (READ_ONCE(sbi->max_inodes) != MSHARE_MAX_INODES)
		seq_printf(m, ",nr_inodes=%lld", READ_ONCE(sbi->max_inodes));
	if (!uid_eq(sbi->uid, GLOBAL_ROOT_UID))
		seq_printf(m, ",uid=%u", from_kuid_munged(&init_user_ns, sbi->uid));
	if (!gid_eq(sbi->gid, GLOBAL_ROOT_GID))
		seq_printf(m, ",gid=%u", from_kgid_munged(&init_user_ns, sbi->gid));
	if (READ_ONCE(sbi->huge) != MSHARE_HUGE_NEVER)
		seq_printf(m, ",huge=%s", mshare_huge_words[READ_ONCE(sbi->huge)].name);
	return 0;
}

static const struct super_operations mshare_super_ops = {
	.alloc_inode	= mshare_alloc_inode,
	.free_inode	= mshare_free_inode,
	.drop_inode	= inode_just_drop,
	.evict_inode	= mshare_evict_inode,
	.statfs		= mshare_statfs,
	.show_options	= mshare_show_options,
};

enum { OPT_SIZE, OPT_MODE, OPT_UID, OPT_GID, OPT_NR_INODES, OPT_HUGE };

static const struct fs_parameter_spec mshare_parameters[] = {
	fsparam_string("size",		OPT_SIZE),
	fsparam_u32oct("mode",		OPT_MODE),
	fsparam_u32("uid",		OPT_UID),
	fsparam_u32("gid",		OPT_GID),
	fsparam_u32("nr_inodes",	OPT_NR_INODES),
	fsparam_enum("huge",		OPT_HUGE,	mshare_huge_words),
	{}
};

static int mshare_parse_size(struct fs_context *fc, const char *text, s64 *pages)
{
	unsigned long long size;
	char *rest;

	size = memparse(text, &rest);
	if (*rest == '%') {
		if (size > 100)
			return invalfc(fc, "size above 100%%");
		size = size * totalram_pages() / 100 << PAGE_SHIFT;
		rest++;
	}
	if (*rest || rest == text || !size || size >> 62)
		return invalfc(fc, "bad size");
	*pages = DIV_ROUND_UP_ULL(size, PAGE_SIZE);
	return 0;
}

static int mshare_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct mshare_sb_info *sbi = fc->s_fs_info;
	struct fs_parse_result result;
	int opt;

	opt = fs_parse(fc, mshare_parameters, param, &result);
	if (opt < 0)
		return opt;
	switch (opt) {
	case OPT_SIZE:
		return mshare_parse_size(fc, param->string, &sbi->max_pages);
	case OPT_MODE:
		sbi->mode = result.uint_32 & 07777;
		sbi->has_mode = true;
		return 0;
	case OPT_UID:
		sbi->has_uid = true;
		sbi->uid = make_kuid(current_user_ns(), result.uint_32);
		return uid_valid(sbi->uid) ? 0 : invalfc(fc, "bad uid");
	case OPT_GID:
		sbi->has_gid = true;
		sbi->gid = make_kgid(current_user_ns(), result.uint_32);
		return gid_valid(sbi->gid) ? 0 : invalfc(fc, "bad gid");
	case OPT_NR_INODES:
		if (!result.uint_32)
			return invalfc(fc, "bad nr_inodes");
		sbi->max_inodes = result.uint_32;
		return 0;
	case OPT_HUGE:
		if (result.uint_32 != MSHARE_HUGE_NEVER && !mshare_has_huge())
			return invalfc(fc, "this kernel has no transparent huge pages");
		sbi->huge = result.uint_32;
		sbi->has_huge = true;
		return 0;
	}
	return -EINVAL;
}

static int mshare_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct mshare_sb_info *sbi = MSHARE_SB(sb);	/* sget_fc() moved it here */
	struct inode *root;
	int err;

	sb->s_maxbytes = MSHARE_MAX_BYTES;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = MSHARE_SUPER_MAGIC;
	sb->s_op = &mshare_super_ops;
	sb->s_time_gran = 1;
	/* Leaves are never executable; this refuses PROT_EXEC in do_mmap(). */
	sb->s_iflags |= SB_I_NOEXEC | SB_I_NODEV;

	err = mshare_charge_inode(sb);
	if (err)
		return err;
	root = mshare_new_inode(sb, S_IFDIR | sbi->mode);
	if (IS_ERR(root)) {
		atomic64_dec(&sbi->used_inodes);
		return PTR_ERR(root);
	}
	root->i_uid = sbi->uid;
	root->i_gid = sbi->gid;
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;
	return mshare_make_info_file(sb);
}

static int mshare_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, mshare_fill_super);
}

/* remount: the limits can change, not below what is used; chmod and chown change the directory. */
static int mshare_reconfigure(struct fs_context *fc)
{
	struct mshare_sb_info *new = fc->s_fs_info;
	struct mshare_sb_info *sbi = MSHARE_SB(fc->root->d_sb);

	if ((new->has_mode && new->mode != sbi->mode) ||
	    (new->has_uid && !uid_eq(new->uid, sbi->uid)) ||
	    (new->has_gid && !gid_eq(new->gid, sbi->gid)))
		return invalfc(fc, "mode, uid and gid cannot be changed by remount");
	if (new->max_pages && new->max_pages < atomic64_read(&sbi->used_pages))
		return invalfc(fc, "size below what is in use");
	if (new->max_inodes && new->max_inodes < atomic64_read(&sbi->used_inodes))
		return invalfc(fc, "nr_inodes below what is in use");
	if (new->max_pages)
		WRITE_ONCE(sbi->max_pages, new->max_pages);
	if (new->max_inodes)
		WRITE_ONCE(sbi->max_inodes, new->max_inodes);
	if (new->has_huge)
		WRITE_ONCE(sbi->huge, new->huge);
	return 0;
}

static void mshare_free_fc(struct fs_context *fc)
{
	kfree(fc->s_fs_info);
}

static const struct fs_context_operations mshare_context_ops = {
	.free		= mshare_free_fc,
	.parse_param	= mshare_parse_param,
	.get_tree	= mshare_get_tree,
	.reconfigure	= mshare_reconfigure,
};

static int mshare_init_fs_context(struct fs_context *fc)
{
	struct mshare_sb_info *sbi;

	sbi = kzalloc(sizeof(*sbi), GFP_KERNEL);
	if (!sbi)
		return -ENOMEM;
	/*
	 * The memory of regions cannot be swapped or reclaimed, and is in no
	 * process's RSS for the OOM killer to see.  So nobody but root makes
	 * any unless the administrator says who (mode=, uid=, gid=).
	 */
	if (fc->purpose != FS_CONTEXT_FOR_RECONFIGURE) {
		sbi->max_pages = totalram_pages() / 2;
		sbi->max_inodes = MSHARE_MAX_INODES;
	}
	sbi->mode = 0755;
	sbi->uid = GLOBAL_ROOT_UID;
	sbi->gid = GLOBAL_ROOT_GID;
	mutex_init(&sbi->bases_lock);
	INIT_LIST_HEAD(&sbi->bases);
	fc->s_fs_info = sbi;
	fc->ops = &mshare_context_ops;
	return 0;
}

static void mshare_kill_sb(struct super_block *sb)
{
	struct mshare_sb_info *sbi = MSHARE_SB(sb);

	mshare_kill_super(sb);
	if (!sbi)
		return;
	WARN_ON_ONCE(atomic64_read(&sbi->used_pages));
	WARN_ON_ONCE(atomic64_read(&sbi->used_inodes));
	kfree(sbi);
}

static struct file_system_type mshare_fs_type = {
	.owner			= THIS_MODULE,
	.name			= "msharefs",
	.init_fs_context	= mshare_init_fs_context,
	.parameters		= mshare_parameters,
	.kill_sb		= mshare_kill_sb,
};

int __init mshare_super_init(void)
{
	int err;

	err = sysfs_create_mount_point(fs_kobj, "mshare");
	if (err)
		return err;
	err = register_filesystem(&mshare_fs_type);
	if (err)
		sysfs_remove_mount_point(fs_kobj, "mshare");
	return err;
}

void mshare_super_exit(void)
{
	unregister_filesystem(&mshare_fs_type);
	sysfs_remove_mount_point(fs_kobj, "mshare");
}
